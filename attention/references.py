"""What one block keeps of the references: keys, values and weighted masks, pooled by concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import size_correction


@dataclass(frozen=True, eq=False)
class ConceptTokens:
    """The tokens of all views of one concept at one block.

    Attributes:
        k, v: (1, m, c) keys and values of the tokens inside the masks.
        bias: (m,) float32 weighted mask, without the correction for sizes.
        places: of each view (m_v,) int64, which tokens of its grid they are.
        grids: (hh, ww) of each view.
    """

    k: Tensor
    v: Tensor
    bias: Tensor
    places: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]

    @property
    def grid_tok(self) -> int:
        """Tokens of all views together, masked or not."""
        return sum(height * width for height, width in self.grids)

    def to(self, device: torch.device) -> ConceptTokens:
        """The same on another device: conds of one call may run on several."""
        return ConceptTokens(self.k.to(device), self.v.to(device), self.bias.to(device), self.places, self.grids)

    def bias_for(self, target_tok: int, dtype: torch.dtype) -> Tensor:
        """(m,) the bias beside `target_tok` tokens of the target."""
        return (self.bias - size_correction(self.grid_tok, target_tok)).to(dtype)


def pool(views: Sequence[ConceptTokens]) -> ConceptTokens | None:
    """The views of one concept as one; None where no view has a token inside its mask."""
    if not any(view.k.shape[1] for view in views):
        return None
    if len(views) == 1:
        return views[0]
    return ConceptTokens(
        k=torch.cat([view.k for view in views], dim=1),
        v=torch.cat([view.v for view in views], dim=1),
        bias=torch.cat([view.bias for view in views]),
        places=tuple(places for view in views for places in view.places),
        grids=tuple(grid for view in views for grid in view.grids),
    )
