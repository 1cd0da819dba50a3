"""Weighted masks: how strongly each token of a reference counts. How masks are trimmed is in trimming.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .device import to_device

MaskResize = Literal["nearest", "area"]


@dataclass(frozen=True, eq=False)
class TokenMask:
    """The tokens of a grid that lie inside a view's mask.

    Attributes:
        indices: (m,) int64, ascending.
        log_mask: (m,) float32, the logarithm of the mask there, 0 where the mask is 1.
        grid: (hh, ww).
    """

    indices: Tensor
    log_mask: Tensor
    grid: tuple[int, int]

    def to(self, device: torch.device) -> TokenMask:
        """The same on another device."""
        return TokenMask(to_device(self.indices, device), to_device(self.log_mask, device), self.grid)


def token_mask(mask: Tensor, grid: tuple[int, int], resize: MaskResize) -> TokenMask:
    """The tokens that take part: those with a mask above 0.

    Args:
        mask: (H_px, W_px) in 0..1.
        grid: (hh, ww).
        resize: "nearest" as in the authors' program; "area" averages, so that thin things do not vanish.

    Source: docs/method.md#weighted-masks; dropping a key equals a bias of minus infinity
    (docs/method.md#exact-savings).
    """
    mask_tok = interpolate(mask.float()[None, None], size=grid, mode=resize).clamp(0.0, 1.0).flatten()
    indices = torch.nonzero(mask_tok > 0).flatten()
    return TokenMask(indices, torch.log(mask_tok[indices]), grid)


def reference_bias(masks: Sequence[TokenMask], weights: Sequence[float], target_tok: int) -> Tensor:
    """The bias on the attention scores of one concept's tokens: a token counts mask * e^weight times.

    The logarithm of (reference tokens of all views / target tokens) is subtracted, so that a weight means the same
    for any sizes and any number of views.

    Args:
        masks: of each view.
        weights: w of each view.
        target_tok: n, the target's tokens.

    Returns:
        (m,) float32, the views one after another.

    Source: docs/method.md#weighted-masks.
    """
    biases = [mask.log_mask + weight for mask, weight in zip(masks, weights, strict=True)]
    reference_tok = sum(mask.grid[0] * mask.grid[1] for mask in masks)
    return (biases[0] if len(biases) == 1 else torch.cat(biases)) - math.log(reference_tok / target_tok)
