"""Where in the picture a person wants a concept."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import SamplingError

_ASPECT_TOLERANCE = 0.02
_INSIDE, _ALMOST = 0.5, 0.999


@dataclass(frozen=True, eq=False)
class TargetRegion:
    """A part of the picture for one concept.

    Attributes:
        masks: (n, H_px, W_px) in 0..1, of the shape of the picture; one for each image of a batch, or one for all.
        exact: whether the part is the concept's region; else found regions are cut to it.
        shares: (n, H_px, W_px) in 0..1, how much the concept counts at each pixel; None for 1 everywhere.
    """

    masks: Tensor
    exact: bool
    shares: Tensor | None = None
    _on_grids: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = field(default_factory=dict, init=False)

    @cached_property
    def key(self) -> str:
        """The same for equal regions. It is asked for often, and takes time: a mask has a megapixel."""
        digest = hashlib.sha256(f"{self.exact} {tuple(self.masks.shape)}".encode())
        for given in (self.masks, self.shares):
            if given is not None:
                digest.update(given.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def on_grid(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """(n, *grid) bool, which cells are inside, and (n, *grid) in 0..1, their shares, or None."""
        if grid not in self._on_grids:
            covered = _mean(self.masks, grid)
            # Of a part that is thinner than a cell, the cells that it covers most.
            most = covered.flatten(1).amax(dim=1).clamp(max=_INSIDE)
            # Means of equal values may differ by rounding.
            inside = (covered > 0) & (covered >= _ALMOST * most[:, None, None])
            self._on_grids[grid] = inside, None if self.shares is None else _mean(self.shares, grid)
        return self._on_grids[grid]

    def check(self, name: str, batch: int, height_px: int, width_px: int) -> None:
        """Make sure that it fits the pictures that are sampled.

        Raises:
            SamplingError: names the input, what was given and what to do.
        """
        count, height, width = self.masks.shape
        if abs(math.log(width / height * height_px / width_px)) > _ASPECT_TOLERANCE:
            raise SamplingError(
                f"mask: that of {name!r} is {width}x{height}, and the picture to be sampled is {width_px}x{height_px},"
                " which is another shape; give a mask of that picture's shape",
                "Region",
            )
        if count not in (1, batch):
            raise SamplingError(
                f"mask: {count} masks for {name!r}, and {batch} pictures are sampled; give one mask for all, or one"
                " for each",
                "Region",
            )


def _mean(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    return interpolate(masks[:, None].float(), size=grid, mode="area")[:, 0]


def of_batch(maps: Tensor, batch: int) -> Tensor:
    """Maps (1 or b, ...) for each image of a batch."""
    return maps.expand(batch, *maps.shape[1:]) if len(maps) == 1 else maps
