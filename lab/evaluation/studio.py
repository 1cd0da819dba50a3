"""Makes the pictures, with the pack's nodes and the trained model in this process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.samplers
import numpy as np
import torch
from torch import Tensor

from devtools.incore import load_pack
from devtools.model import INPUTS
from devtools.tiny_pack import tiny_model

from .combinations import Combination, Concept, DrawnView, parts_named_in
from .rows import Row
from .sheets import as_tensor

SIZE_PX = INPUTS["MagicFaceReference"]["size"]
_SEEDS = 1 << 20  # distance between two rows' sets of seeds
_CACHE_MB = 512  # most rows of a combination have the same references


@dataclass(frozen=True, eq=False)
class Made:
    """A picture and the regions that the method recorded.

    Attributes:
        picture: (h, w, 3) float32 in 0..1.
        concepts: the phrase of each concept.
        regions: for each step with regions, (H2, W2) int64 with the index of a concept or -1; empty without the method.
    """

    picture: Tensor
    concepts: tuple[str, ...]
    regions: list[Tensor]


class Studio:
    """The trained model and the pack. Each reference is encoded once."""

    def __init__(self) -> None:
        self.pack = load_pack()
        self.model, self.clip, self.vae = tiny_model.load("portraits")
        self.layout = self.pack.sampling.families.unet.layout_of(self.model.model.diffusion_model)
        self._encoded: dict[tuple[object, ...], Any] = {}

    def make(self, wanted: Combination, row: Row, region_source: Any = None) -> Made:
        """Sample the picture of a combination in the way of a row.

        Args:
            wanted: the combination.
            row: the row.
            region_source: another source of regions than the attention.
        """
        references = tuple(self.reference(concept, row) for concept in wanted.concepts) if row.uses else ()
        return self.sample(wanted.prompt, references, row, wanted.number, region_source)

    def drawn(self, wanted: Combination) -> Made:
        """A true drawing of what a combination asks for, with the looks of the references."""
        return Made(as_tensor(wanted.drawn().picture), (), [])

    @torch.inference_mode()
    def sample(
        self,
        prompt: str,
        references: tuple[Any, ...],
        row: Row,
        number: int,
        region_source: Any = None,
        start: Tensor | None = None,
        denoise: float = 1.0,
    ) -> Made:
        """Sample a picture.

        Args:
            prompt: the positive prompt; the negative one is empty.
            references: those of the method; none for the sampler without the method.
            row: its settings.
            number: of the combination.
            region_source: another source of regions than the default.
            start: (h, w, 3) float32 in 0..1, a picture to start from; None for an empty one.
            denoise: as KSampler's.
        """
        sampling = self.pack.sampling
        model = self.model
        if references:
            chosen = {"segmentation_blocks": row.segmentation, "refresh": row.refresh}
            settings = {name: value for name, value in chosen.items() if value is not None}
            source = {} if region_source is None else {"region_source": region_source}
            schedule = sampling.method.Schedule(**{"cache_mb": _CACHE_MB, **settings, **row.schedule})
            model = sampling.patch.patch_model(model, sampling.patch.bind(model, references, schedule, **source))
        positive = self.pack.nodes.prompt.MagicFacePrompt.execute(self.clip, prompt).result[0]
        negative = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(""))
        sampler, side = INPUTS["KSampler"], SIZE_PX // 8
        seed = number + _SEEDS * row.seed
        noise = torch.randn((1, 4, side, side), generator=torch.Generator().manual_seed(seed))
        samples = comfy.sample.sample(
            model,
            noise,
            sampler["steps"],
            sampler["cfg"],
            sampler["sampler_name"],
            sampler["scheduler"],
            positive,
            negative,
            torch.zeros_like(noise) if start is None else self.vae.encode(start[None]),
            denoise=denoise,
            disable_pbar=True,
            seed=seed,
        )
        picture = self.vae.decode(samples)[0].float().cpu()
        if not references or row.weight == 0:
            return Made(picture, (), [])
        ((history, index),) = sampling.regions.history.REGION_STORE.find(samples)
        return Made(picture, history.concept_names, [step.concepts[index].long() for step in history.steps])

    @torch.inference_mode()
    def reference(self, concept: Concept, row: Row) -> Any:
        """A concept's reference, with the settings of a row."""
        key = concept, row.views, row.masks, row.size_px, row.crop
        if key not in self._encoded:
            views = concept.views[: row.views]
            self._encoded[key] = self.pack.sampling.references.encoding.encode_reference(
                torch.stack([as_tensor(view.portrait.picture) for view in views]),
                torch.cat([self._mask(view, concept.part, row) for view in views]),
                self.vae,
                self.clip,
                concept.views[0].caption,
                concept.part,
                row.size_px or SIZE_PX,
                row.crop,
            )
        changed: dict[str, Any] = {} if row.resize is None else {"resize": row.resize}
        if row.weight is not None:
            changed |= {"weight": row.weight, "blend_weight": row.weight}
        return replace(self._encoded[key], **changed)

    def _mask(self, view: DrawnView, part: str, row: Row) -> Tensor:
        """(1, H, W) the mask of a part. A caption that does not name it is continued by its name to find it."""
        if row.masks == "exact":
            return torch.from_numpy(view.portrait.masks[part].astype(np.float32))[None]
        caption = view.caption if part in parts_named_in(view.caption) else f"{view.caption}, {part}"
        found: Tensor = self.pack.sampling.references.concept_mask.concept_masks(
            self.model, self.clip, self.vae, as_tensor(view.portrait.picture)[None], caption, part, SIZE_PX
        )
        return found
