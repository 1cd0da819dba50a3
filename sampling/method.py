"""What the nodes hand to sampling: references, settings, and both bound to a model's blocks."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..attention.blocks import Block
from ..attention.masks import MaskResize
from ..attention.schedule import Stage
from .conditioning.prompt import PromptTokens, Token
from .references.cache import AUTO_MB, CacheLocation
from .references.noise import NoiseSource
from .regions.source import RegionSource
from .regions.target import TargetRegion

KEY = "magicface"
"""The key of every wrapper and callback that the pack puts on a model."""

Foreground = Literal["auto", "always", "never"]

# Measured (docs/evaluation.md): 1.5 gives the likeness of 2 with fewer unwanted things in the picture, and "area" gives
# more likeness than "nearest", above all for thin things. The authors use weights of 1.2 to 4, and "nearest".
DEFAULT_WEIGHT = 1.5
DEFAULT_RESIZE: MaskResize = "area"
# Six levels of references give what all levels give, for a third of the passes or fewer (docs/evaluation.md#refresh).
DEFAULT_REFRESH = 0.17
# The authors' rule (docs/method.md#segmentation): the more concepts, the lower the factor on other words.
_AUTO_SUPPRESSION = {1: 0.9, 2: 0.6}
_AUTO_SUPPRESSION_MANY = 0.5
_CUT_BELOW = 0.9


@dataclass(frozen=True, eq=False)
class Reference:
    """One concept in one or several views of the same size, encoded.

    Attributes:
        concept: the phrase that names it in the target prompt.
        concept_tokens: the phrase's tokens.
        caption: what the pictures show.
        conditioning: the encoded caption, as ComfyUI's CONDITIONING.
        latents: (V, ch, h, w) clean latents as the VAE gives them, in main memory.
        masks: (V, H_px, W_px) in 0..1, at the pictures' own size, or that of the part that is encoded.
        weight: w of stage 1; 0 means off.
        blend_weight: w of stage 2; 0 means off.
        resize: how masks are resized to token grids.
        pictures: (V, h_px, w_px, 3) uint8 thumbnails, or None.
        region: where in the picture it is to be; None for anywhere.
        mask_notes: what is doubtful about the masks as they were given, one sentence each.
    """

    concept: str
    concept_tokens: tuple[Token, ...]
    caption: str
    conditioning: list[tuple[Tensor, dict[str, Any]]]
    latents: Tensor
    masks: Tensor
    weight: float = DEFAULT_WEIGHT
    blend_weight: float = DEFAULT_WEIGHT
    resize: MaskResize = DEFAULT_RESIZE
    pictures: Tensor | None = None
    region: TargetRegion | None = None
    mask_notes: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[tuple[Token, ...], str | None]:
        """The same for references that are views of one concept: those with the same words in the same place."""
        return self.concept_tokens, None if self.region is None else self.region.key

    def weight_at(self, stage: Stage) -> float:
        """w at a stage; 0 where the reference takes no part."""
        return {Stage.OFF: 0.0, Stage.LAYOUT: self.weight, Stage.BLEND: self.blend_weight}[stage]

    @property
    def active(self) -> bool:
        """Whether any stage uses it."""
        return self.weight != 0 or self.blend_weight != 0


@dataclass(frozen=True)
class Schedule:
    """When, where and how the method acts (docs/method.md#schedule).

    Attributes:
        start, switch, end: fractions of sampling in ComfyUI's percent convention, 0 <= start <= switch <= end <= 1.
        injection_blocks, segmentation_blocks: names of blocks, see `attention.blocks`.
        suppression: factor on tokens that name no concept, 0..1; None for the authors' rule.
        foreground: whether regions are cut to the foreground; "auto": if the suppression is below 0.9.
        guidance: whether semantic guidance acts.
        noise_seed: of the references' noise.
        cache_mb: room in the reference cache, in units of 2^20 bytes; 0 for none, -1 for what is free to give.
        cache_location: where the cached keys and values are.
        refresh: the part of sampling for which references are computed once, 0..1; 0 for once at every noise level.
    """

    start: float = 0.0
    switch: float = 0.43
    end: float = 1.0
    injection_blocks: str = "auto"
    segmentation_blocks: str = "auto"
    suppression: float | None = None
    foreground: Foreground = "auto"
    guidance: bool = True
    noise_seed: int = 0
    cache_mb: int = AUTO_MB
    cache_location: CacheLocation = "main memory"
    refresh: float = DEFAULT_REFRESH


@dataclass(frozen=True)
class RecordSettings:
    """Of which steps and blocks a run records attention snapshots.

    Attributes:
        steps: of the sampler, from 0; negative ones count from the end.
        blocks: names of injection blocks, see `attention.blocks`; "auto" for the first at the finest resolution.
        max_mb: room for the snapshots, in units of 2^20 bytes.
    """

    steps: tuple[int, ...]
    blocks: str
    max_mb: int


@dataclass(frozen=True, eq=False)
class Method:
    """A schedule and its references, bound to one model's blocks.

    Attributes:
        references: as given, including those that are off.
        schedule: the settings.
        injection_blocks, segmentation_blocks: the chosen blocks in execution order.
        noise: the source of the references' noise.
        region_source: where regions come from.
        record: which attention snapshots to record, None for none.
        recorded_blocks: the blocks of these snapshots.
        strict: whether a run is refused if other nodes act in the attention of the same blocks.
    """

    references: tuple[Reference, ...]
    schedule: Schedule
    injection_blocks: tuple[Block, ...]
    segmentation_blocks: tuple[Block, ...]
    noise: NoiseSource
    region_source: RegionSource
    record: RecordSettings | None = None
    recorded_blocks: tuple[Block, ...] = ()
    strict: bool = False

    @property
    def concepts(self) -> tuple[Reference, ...]:
        """The first reference of each concept, in order of the concepts' indices."""
        first: dict[Any, Reference] = {}
        for reference in self.references:
            first.setdefault(reference.identity, reference)
        return tuple(first.values())

    @property
    def identities(self) -> tuple[Any, ...]:
        """What makes the concepts what they are, by index: their words and their places."""
        return tuple(concept.identity for concept in self.concepts)

    @property
    def concept_names(self) -> tuple[str, ...]:
        """The concepts' names for a legend."""
        phrases = [concept.concept_tokens for concept in self.concepts]
        names = []
        for index, concept in enumerate(self.concepts):
            number = phrases[: index + 1].count(concept.concept_tokens)
            name = concept.concept if number == 1 else f"{concept.concept} ({number})"
            names.append(name if self.is_active(concept) else f"{name} (off)")
        return tuple(names)

    def concept_of(self, reference: Reference) -> int:
        """The index of a reference's concept."""
        return [concept.identity for concept in self.concepts].index(reference.identity)

    def is_active(self, concept: Reference) -> bool:
        """Whether any reference of the concept is on."""
        return any(r.active for r in self.references if r.identity == concept.identity)

    def is_on(self, concept: Reference, stage: Stage) -> bool:
        """Whether any reference of the concept takes part in a stage."""
        return any(r.weight_at(stage) != 0 for r in self.references if r.identity == concept.identity)

    @property
    def needs_words(self) -> bool:
        """Whether any region is to be found by its words."""
        return any(self.is_active(c) and not (c.region and c.region.exact) for c in self.concepts)

    @property
    def reference_cells(self) -> int:
        """How many cells the latents of all references that are on have."""
        return sum(len(r.latents) * r.latents.shape[-2] * r.latents.shape[-1] for r in self.references if r.active)

    def positions(self, prompt: PromptTokens) -> list[list[int]]:
        """The positions of each concept's words in a prompt; none for a concept that is off."""
        return prompt.positions_of([c.concept_tokens if self.is_active(c) else () for c in self.concepts])

    @property
    def suppression(self) -> float:
        """Factor on tokens that name no concept."""
        if self.schedule.suppression is not None:
            return self.schedule.suppression
        return _AUTO_SUPPRESSION.get(sum(map(self.is_active, self.concepts)), _AUTO_SUPPRESSION_MANY)

    @property
    def cut_to_foreground(self) -> bool:
        """Whether regions are cut to the foreground."""
        if self.schedule.foreground == "auto":
            return self.suppression < _CUT_BELOW
        return self.schedule.foreground == "always"
