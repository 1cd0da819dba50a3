"""Regions: which pixels belong to which concept, and how a block's queries are grouped by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .transfer import sent

NO_TOKEN = -1
NO_CONCEPT = -1


@dataclass(frozen=True, eq=False)
class Regions:
    """What one evaluation's segmentation found, on the r = 2 grid.

    Attributes:
        tokens: (b, H2, W2) int64, the text token a pixel belongs to, or -1.
        concepts: (b, H2, W2) int64, the concept a pixel belongs to, or -1.
        foreground: (b, H2, W2) bool.
        length: T, the tokens there are.
    """

    tokens: Tensor
    concepts: Tensor
    foreground: Tensor
    length: int


def half_grid(size_lat: Sequence[int]) -> tuple[int, int]:
    """The r = 2 grid of a latent of (H, W): each half, rounded up as the UNet's strided convolutions do."""
    return (size_lat[-2] + 1) // 2, (size_lat[-1] + 1) // 2


def carry(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Integer or boolean maps (b, H2, W2) to another grid by nearest neighbour (METHOD 4)."""
    return interpolate(labels[:, None].float(), size=tuple(size), mode="nearest")[:, 0].to(labels.dtype)


def group_queries(concepts: Tensor, grid: tuple[int, int], device: torch.device) -> list[list[tuple[int, Tensor]]]:
    """Each image's tokens of a block grouped by region, empty regions left out.

    Args:
        concepts: (b, H2, W2) int64 concept indices or -1, in main memory.
        grid: (hh, ww) of the block.
        device: where the indices shall lie.

    Returns:
        For each image [(concept or -1, (g,) int64 token indices), ...]; together they name each token once.
    """
    carried = carry(concepts, grid).flatten(1)
    return [
        [(int(c), sent(torch.nonzero(image == c).flatten(), device)) for c in torch.unique(image)] for image in carried
    ]
