"""Regions: which pixels belong to which concept, and how a block's queries are grouped by them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .device import to_device

NO_LABEL = -1
NO_CONCEPT = -1

QueryGroups = Sequence[tuple[int, Tensor]]
"""One image's queries by region: (concept index or -1 for none, (g,) int64 token indices)."""


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of one evaluation, on the r = 2 grid.

    Attributes:
        labels: (b, H2, W2) int64, the label that a pixel has for guidance, or -1. Attention-based segmentation labels
            pixels by text token; other sources may label them as they like.
        concepts: (b, H2, W2) int64, the concept that a pixel belongs to, or -1.
        foreground: (b, H2, W2) bool.
        label_count: how many labels there are.
    """

    labels: Tensor
    concepts: Tensor
    foreground: Tensor
    label_count: int


def half_grid(size_lat: Sequence[int]) -> tuple[int, int]:
    """The r = 2 grid of a latent (H, W): each half, rounded up as the UNet's strided convolutions do."""
    return (size_lat[-2] + 1) // 2, (size_lat[-1] + 1) // 2


def resize_nearest(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (b, H2, W2) of any type by nearest neighbour."""
    return interpolate(maps[:, None].float(), size=tuple(size), mode="nearest")[:, 0].to(maps.dtype)


def group_queries(labels: Tensor, device: torch.device) -> list[QueryGroups]:
    """Group each image's queries by region, without empty regions.

    Args:
        labels: (b, n) int64 concept indices or -1, in main memory.
        device: of the returned indices.

    Returns:
        For each image its groups; together they name each query once.
    """
    return [
        [(int(c), to_device(torch.nonzero(image == c).flatten(), device)) for c in torch.unique(image)]
        for image in labels
    ]
