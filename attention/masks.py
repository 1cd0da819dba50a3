"""Weighted masks: how strongly each token of a reference counts (METHOD 2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

MaskResize = Literal["nearest", "area"]


def mask_to_grid(mask: Tensor, grid: tuple[int, int], resize: MaskResize) -> Tensor:
    """A picture mask on a token grid.

    Args:
        mask: (H_px, W_px) in 0..1.
        grid: (hh, ww).
        resize: "nearest" as the authors do; "area" averages, so that thin things leave a trace.

    Returns:
        (hh * ww,) float32 in 0..1.
    """
    resized = interpolate(mask.float()[None, None], size=grid, mode=resize)
    return resized.clamp(0.0, 1.0).flatten()


def weighted_mask(mask_tok: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """The tokens that take part and their biases: w + log(m); a token with m = 0 is left out altogether.

    Args:
        mask_tok: (hh * ww,) in 0..1.
        weight: w; a token counts m * e^w times.

    Returns:
        kept: (m,) int64 indices of the tokens with mask > 0, ascending.
        bias: (m,) float32.

    Source: METHOD 2, and identity 1 of METHOD 7 (dropping a key equals a bias of minus infinity).
    """
    kept = torch.nonzero(mask_tok > 0).flatten()
    return kept, weight + torch.log(mask_tok[kept])


def size_correction(reference_tok: int, target_tok: int) -> float:
    """log(reference tokens of all views / target tokens), to be subtracted from a concept's biases.

    With it a weight means the same whatever the sizes and the number of views; 0 where both are equal.
    """
    return math.log(reference_tok / target_tok)


def grow(mask: Tensor, radius_px: int) -> Tensor:
    """Grow (radius > 0) or shrink (radius < 0) a mask by a square of 2 |radius| + 1 pixels; (V, H, W) in 0..1.

    The world outside the picture counts as empty for growing and as full for shrinking, so that a mask which
    covers the whole picture stays whole.
    """
    if radius_px == 0:
        return mask
    sign = 1.0 if radius_px > 0 else -1.0
    size = 2 * abs(radius_px) + 1
    rows = max_pool2d(sign * mask[:, None], (size, 1), stride=1, padding=(abs(radius_px), 0))
    return sign * max_pool2d(rows, (1, size), stride=1, padding=(0, abs(radius_px)))[:, 0]


def feather(mask: Tensor, radius_px: int) -> Tensor:
    """Soften a mask's edge over about `radius_px` pixels (two box blurs); (V, H, W) in 0..1.

    Averages take in pixels of the picture only, so a mask that covers all of it stays 1 up to the border.
    """
    if radius_px == 0:
        return mask
    size, soft = 2 * radius_px + 1, mask[:, None]
    for _ in range(2):
        soft = avg_pool2d(soft, (size, 1), stride=1, padding=(radius_px, 0), count_include_pad=False)
        soft = avg_pool2d(soft, (1, size), stride=1, padding=(0, radius_px), count_include_pad=False)
    return soft[:, 0].clamp(0.0, 1.0)
