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
        grid_tok: tokens of all views together, masked or not.
    """

    k: Tensor
    v: Tensor
    bias: Tensor
    grid_tok: int

    def to(self, device: torch.device) -> ConceptTokens:
        """The same on another device: conds of one call may run on several."""
        return ConceptTokens(self.k.to(device), self.v.to(device), self.bias.to(device), self.grid_tok)

    def bias_for(self, target_tok: int, dtype: torch.dtype) -> Tensor:
        """(m,) the bias beside `target_tok` tokens of the target."""
        return (self.bias - size_correction(self.grid_tok, target_tok)).to(dtype)


def pool(views: Sequence[ConceptTokens]) -> ConceptTokens | None:
    """The views of one concept as one; None where no view has a token inside its mask."""
    if not any(view.k.shape[1] for view in views):
        return None
    return ConceptTokens(
        k=torch.cat([view.k for view in views], dim=1),
        v=torch.cat([view.v for view in views], dim=1),
        bias=torch.cat([view.bias for view in views]),
        grid_tok=sum(view.grid_tok for view in views),
    )
