"""What one block keeps of the references: keys, values and weighted masks, pooled by concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .masks import size_correction


@dataclass(frozen=True, eq=False)
class ConceptTokens:
    """The tokens of all views of one concept at one block.

    Attributes:
        k, v: (1, m, c) keys and values of the tokens inside the masks.
        bias: (m,) float32 weighted mask, without the correction for sizes.
        places: (m,) int64, where they lie on the views' grids, counted from the first view's first token.
        grids: (hh, ww) of each view.
    """

    k: Tensor
    v: Tensor
    bias: Tensor
    places: Tensor
    grids: tuple[tuple[int, int], ...]

    @property
    def grid_tok(self) -> int:
        """Tokens of all views together, masked or not."""
        return sum(height * width for height, width in self.grids)

    def to(self, device: torch.device) -> ConceptTokens:
        """The same on another device: conds of one call may run on several."""
        k, v, bias, places = (x.to(device) for x in (self.k, self.v, self.bias, self.places))
        return ConceptTokens(k, v, bias, places, self.grids)

    def bias_for(self, target_tok: int, dtype: torch.dtype) -> Tensor:
        """(m,) the bias beside `target_tok` tokens of the target."""
        return (self.bias - size_correction(self.grid_tok, target_tok)).to(dtype)


def pool(views: Sequence[ConceptTokens]) -> ConceptTokens | None:
    """The views of one concept as one; None where no view has a token inside its mask."""
    if not any(view.k.shape[1] for view in views):
        return None
    before = accumulate((view.grid_tok for view in views), initial=0)
    return ConceptTokens(
        k=torch.cat([view.k for view in views], dim=1),
        v=torch.cat([view.v for view in views], dim=1),
        bias=torch.cat([view.bias for view in views]),
        places=torch.cat([view.places + first for view, first in zip(views, before, strict=False)]),
        grids=tuple(grid for view in views for grid in view.grids),
    )
