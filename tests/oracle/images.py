"""Resizing and blurring of maps: as loops over pixels, and as matrices made with these loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

Resize = Callable[[Tensor, Sequence[int]], Tensor]


def nearest(picture: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (H, W): each pixel takes the value of the source pixel at its top left corner."""
    height, width = picture.shape
    out = torch.zeros(*size, dtype=picture.dtype)
    for y in range(size[0]):
        for x in range(size[1]):
            out[y, x] = picture[y * height // size[0], x * width // size[1]]
    return out


def area(picture: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (H, W): each pixel is the mean of all source pixels that it overlaps."""
    height, width = picture.shape
    out = torch.zeros(*size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            top, bottom = y * height // size[0], math.ceil((y + 1) * height / size[0])
            left, right = x * width // size[1], math.ceil((x + 1) * width / size[1])
            out[y, x] = picture[top:bottom, left:right].double().mean()
    return out


def bilinear(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (T, H, W), with pixel centres evenly spaced (align_corners off)."""
    out = torch.zeros(len(maps), *size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            (y0, y1, fy), (x0, x1, fx) = (
                _adjacent(at, given, wanted) for at, given, wanted in zip((y, x), maps.shape[1:], size, strict=True)
            )
            above = (1 - fx) * maps[:, y0, x0] + fx * maps[:, y0, x1]
            below = (1 - fx) * maps[:, y1, x0] + fx * maps[:, y1, x1]
            out[:, y, x] = (1 - fy) * above + fy * below
    return out


def _adjacent(at: int, given: int, wanted: int) -> tuple[int, int, float]:
    location = max(0.0, (at + 0.5) * given / wanted - 0.5)
    first = int(location)
    return first, min(first + 1, given - 1), location - first


def blur(maps: Tensor) -> Tensor:
    """3 x 3 blur of (T, H, W): weights e^-1 : 1 : e^-1 both ways, summing to 1, with reflected borders."""
    line = [math.exp(-1), 1.0, math.exp(-1)]
    height, width = maps.shape[1:]
    out = torch.zeros_like(maps, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    weight = line[dy + 1] * line[dx + 1] / sum(line) ** 2
                    out[:, y, x] += weight * maps[:, _reflect(y + dy, height), _reflect(x + dx, width)]
    return out


def _reflect(at: int, size: int) -> int:
    if size == 1:
        return 0
    return -at if at < 0 else 2 * (size - 1) - at if at >= size else at


def over_mean(picture: Tensor) -> Tensor:
    """A map (H, W) divided by its spatial mean."""
    return picture / (picture.mean() + 1e-8)


def upsample_and_blur(maps: Tensor, size: Sequence[int]) -> Tensor:
    """`blur(bilinear(maps, size))` of (T, h, w), as a product with a matrix made with the loops from unit maps."""
    matrix = _upsample_and_blur_matrix(tuple(maps.shape[1:]), tuple(size))
    return (maps.double().flatten(1) @ matrix).view(len(maps), *size)


@lru_cache
def _upsample_and_blur_matrix(grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    cells = grid[0] * grid[1]
    unit_maps = torch.eye(cells, dtype=torch.float64).view(cells, *grid)
    return blur(bilinear(unit_maps, size)).flatten(1)
