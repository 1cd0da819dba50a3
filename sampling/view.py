"""One view of a reference, ready for one model."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..attention.masks import mask_to_grid, weighted_mask
from ..attention.references import ConceptTokens
from ..attention.schedule import Stage
from ..attention.transfer import sent
from .identity import content
from .kept import BlockTokens
from .method import Reference

log = logging.getLogger(__name__)


@dataclass(eq=False)
class View:
    """One view of a reference, ready for one model.

    Attributes:
        reference: whose view it is.
        number: which of its views.
        name: by which its noise is drawn.
        latent: (1, ch, h, w) in the UNet's space, on the device.
        conds: ComfyUI's processed conds of the caption, one for each part of its schedule.
        grids: what `inside_mask` found.
        digests: what `digest_at` found, by part of the schedule.
    """

    reference: Reference
    number: int
    name: str
    latent: Tensor
    conds: list[dict[str, Any]]
    grids: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    digests: dict[int, bytes | None] = field(default_factory=dict)

    @property
    def mask(self) -> Tensor:
        """(H_px, W_px) in 0..1."""
        return self.reference.masks[self.number]

    def inside_mask(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Indices of the tokens inside the mask and the logarithms of their masks, on a token grid."""
        if grid not in self.grids:
            kept, log_mask = weighted_mask(mask_to_grid(self.mask, grid, self.reference.resize), weight=0.0)
            if not len(kept):
                log.warning(
                    "MagicFace: the mask of %r vanishes on a grid of %dx%d, so blocks there do not see the reference;"
                    " set resize to area in MagicFaceMaskWeight.",
                    self.reference.concept,
                    grid[1],
                    grid[0],
                )
            self.grids[grid] = sent(kept, device), sent(log_mask, device)
        return self.grids[grid]

    def conds_at(self, sigma: float) -> dict[str, Any]:
        """The model conds of the caption; of a scheduled caption those of its part at this noise level."""
        return self.conds[self._part_at(sigma)]["processed"]

    def _part_at(self, sigma: float) -> int:
        for part, cond in enumerate(self.conds):
            if cond.get("timestep_start", sigma) >= sigma >= cond.get("timestep_end", sigma):
                return part
        return len(self.conds) - 1

    def digest_at(self, sigma: float) -> bytes | None:
        """Digest of all that goes into the UNet for this view, and of what is kept of it; None if it cannot be told.

        The noise is known by the view's name.
        """
        part = self._part_at(sigma)
        if part not in self.digests:
            encoded = self.reference.latents[self.number]  # in main memory; the device's would be waited for
            inputs = (self.name, encoded, self.mask, self.reference.resize, self.conds[part]["processed"])
            try:
                self.digests[part] = content(inputs)
            except (TypeError, RecursionError):
                self.digests[part] = None
        return self.digests[part]

    def concept_tokens(self, block_tokens: BlockTokens, stage: Stage) -> ConceptTokens:
        """What a block keeps of it, with its weighted mask at a stage."""
        kept, log_mask = self.inside_mask(block_tokens.grid, block_tokens.k.device)
        bias = log_mask + self.reference.weight_at(stage)
        return ConceptTokens(block_tokens.k, block_tokens.v, bias, (kept,), (block_tokens.grid,))
