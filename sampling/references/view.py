"""One view of a reference, ready for one model."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...attention.masks import TokenMask, token_mask
from ..findings import Findings
from ..method import Reference
from .identity import content
from .unmodified_unet import part_at


@dataclass(eq=False)
class ReferenceView:
    """One view of a reference, ready for one model.

    Attributes:
        reference: that it is a view of.
        number: its index among the reference's views.
        name: the name of its noise.
        latent: (1, ch, h, w) in the UNet's space, on the device.
        conds: ComfyUI's processed conds of the caption, one for each part of its schedule.
        findings: of the run.
    """

    reference: Reference
    number: int
    name: str
    latent: Tensor
    conds: list[dict[str, Any]]
    findings: Findings
    _masks: dict[tuple[int, int], TokenMask] = field(default_factory=dict, init=False)
    _digests: dict[int, bytes | None] = field(default_factory=dict, init=False)

    def mask_on(self, grid: tuple[int, int]) -> TokenMask:
        """The mask on a token grid, on the view's device."""
        if grid not in self._masks:
            mask = token_mask(self.reference.masks[self.number], grid, self.reference.resize)
            if not len(mask.indices):
                self.findings.add(
                    f"the mask of {self.reference.concept!r} has no pixel on a grid of {grid[1]}x{grid[0]}, so the"
                    " reference has no effect in blocks of that grid; set resize to area in MagicFace Mask Weight."
                )
            self._masks[grid] = mask.to(self.latent.device)
        return self._masks[grid]

    def conds_at(self, sigma: float) -> dict[str, Any]:
        """The model conds of the caption; of a scheduled caption those of its part at this noise level."""
        return self.conds[part_at(self.conds, sigma)]["processed"]

    def digest_at(self, sigma: float) -> bytes | None:
        """A digest of everything that its keys and values depend on; None if that cannot be read.

        The noise is represented by its name.
        """
        part = part_at(self.conds, sigma)
        if part not in self._digests:
            reference = self.reference
            latent = reference.latents[self.number]  # in main memory; to read the device's the host would have to wait
            inputs = (
                self.name, latent, reference.masks[self.number], reference.resize, self.conds[part]["processed"]
            )  # fmt: skip
            try:
                self._digests[part] = content(inputs)
            except (TypeError, RecursionError):
                self._digests[part] = None
        return self._digests[part]
