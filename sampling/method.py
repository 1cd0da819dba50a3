"""What the nodes hand to sampling: references, schedule, and both bound to a model's blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..attention.blocks import Block
from ..attention.masks import MaskResize
from ..attention.schedule import Stage
from .kept import Place
from .noise import NoiseSource
from .prompt import Token

KEY = "magicface"
"""Of all that is hung on a model."""

Foreground = Literal["auto", "always", "never"]

# Measured, docs/evaluation.md: the likeness of a weight of 2 with fewer things that nobody asked for; and by area more
# of it than by nearest, most of all for thin things. The authors use 1.2 to 4, and nearest.
DEFAULT_WEIGHT = 1.5
DEFAULT_RESIZE: MaskResize = "area"
# The authors' rule (METHOD 3): the more concepts, the less the other words may claim.
_AUTO_SUPPRESSION = {1: 0.9, 2: 0.6}
_AUTO_SUPPRESSION_MANY = 0.5
_CUT_BELOW = 0.9


@dataclass(frozen=True, eq=False)
class Reference:
    """One concept seen in one or several views of one size, encoded.

    Attributes:
        concept: the phrase that names it in the target prompt.
        concept_tokens: the phrase's tokens, which also tell whether two references show one concept.
        caption: what the pictures show.
        conditioning: the encoded caption, as ComfyUI's CONDITIONING.
        latents: (V, ch, h, w) clean latents as the VAE gives them, in main memory.
        masks: (V, H_px, W_px) in 0..1, at the pictures' own size.
        weight: w of stage 1; 0 means off.
        weight_injection: w of stage 2; 0 means off.
        resize: how masks come to token grids.
        pictures: (V, H_px, W_px, 3) uint8 small ones, to be shown; None if there are none.
    """

    concept: str
    concept_tokens: tuple[Token, ...]
    caption: str
    conditioning: list[tuple[Tensor, dict[str, Any]]]
    latents: Tensor
    masks: Tensor
    weight: float = DEFAULT_WEIGHT
    weight_injection: float = DEFAULT_WEIGHT
    resize: MaskResize = DEFAULT_RESIZE
    pictures: Tensor | None = None

    def weight_at(self, stage: Stage) -> float:
        """w at a stage; 0 where the reference takes no part."""
        return {Stage.OFF: 0.0, Stage.LAYOUT: self.weight, Stage.INJECTION: self.weight_injection}[stage]

    @property
    def active(self) -> bool:
        """Whether any stage uses it."""
        return self.weight != 0 or self.weight_injection != 0


@dataclass(frozen=True)
class Schedule:
    """When, where and how the method acts; the defaults are the authors' (METHOD 6).

    Attributes:
        start, switch, end: parts of sampling in ComfyUI's percent convention, 0 <= start <= switch <= end <= 1.
        injection, segmentation: names of blocks, see `attention.blocks`.
        suppression: factor on tokens that name no concept, 0..1; None for the authors' rule.
        foreground: whether regions are cut to the foreground; "auto" where the suppression is below 0.9.
        guidance: whether semantic-aware guidance acts.
        noise_seed: of the references' noise.
        keep_mb: how much of the references' keys and values may be kept for later runs, in units of 2^20 bytes.
        keep_on: where.
    """

    start: float = 0.0
    switch: float = 0.43
    end: float = 1.0
    injection: str = "auto"
    segmentation: str = "auto"
    suppression: float | None = None
    foreground: Foreground = "auto"
    guidance: bool = True
    noise_seed: int = 0
    keep_mb: int = 0
    keep_on: Place = "main memory"


@dataclass(frozen=True)
class RecordSettings:
    """Which of its attention a run keeps to be shown.

    Attributes:
        steps: of the sampler, from 0; negative ones count from the end.
        blocks: names of injected blocks, see `attention.blocks`; "auto" for the first at the finest resolution.
        most_mb: what may be kept, in units of 2^20 bytes.
    """

    steps: tuple[int, ...]
    blocks: str
    most_mb: int


@dataclass(frozen=True, eq=False)
class Method:
    """A schedule and its references, bound to one model's blocks.

    Attributes:
        references: as given, those that are off included.
        schedule: the settings.
        injection, segmentation: the chosen blocks in execution order.
        noise: where the references' noise comes from.
        record: which attention is kept, None for none.
        recorded: the blocks it is kept of.
        strict: whether a run ends where other nodes act in the attention of the chosen blocks.
    """

    references: tuple[Reference, ...]
    schedule: Schedule
    injection: tuple[Block, ...]
    segmentation: tuple[Block, ...]
    noise: NoiseSource
    record: RecordSettings | None = None
    recorded: tuple[Block, ...] = ()
    strict: bool = False

    @property
    def concepts(self) -> tuple[Reference, ...]:
        """The first reference of each concept, in order: a concept's index is its place here."""
        first: dict[tuple[Token, ...], Reference] = {}
        for reference in self.references:
            first.setdefault(reference.concept_tokens, reference)
        return tuple(first.values())

    @property
    def labels(self) -> tuple[str, ...]:
        """The concepts' names for a legend."""
        return tuple(c.concept if self.is_active(c) else f"{c.concept} (off)" for c in self.concepts)

    def concept_of(self, reference: Reference) -> int:
        """The index of a reference's concept."""
        return [c.concept_tokens for c in self.concepts].index(reference.concept_tokens)

    def is_active(self, concept: Reference) -> bool:
        """Whether any reference of the concept is on."""
        return any(r.active for r in self.references if r.concept_tokens == concept.concept_tokens)

    @property
    def suppression(self) -> float:
        """Factor on tokens that name no concept."""
        if self.schedule.suppression is not None:
            return self.schedule.suppression
        return _AUTO_SUPPRESSION.get(sum(map(self.is_active, self.concepts)), _AUTO_SUPPRESSION_MANY)

    @property
    def cut_to_foreground(self) -> bool:
        """Whether every token's region ends where the foreground does."""
        if self.schedule.foreground == "auto":
            return self.suppression < _CUT_BELOW
        return self.schedule.foreground == "always"
