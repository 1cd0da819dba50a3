"""Attention and images as the plain program needs them, written out."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(n, c) output and (n, m) probabilities averaged over heads, of (n, c) queries and (m, c) keys and values."""
    width = q.shape[1] // heads
    outputs, maps = [], []
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        scores = q[:, columns].double() @ k[:, columns].double().T / math.sqrt(width)
        probabilities = (scores if bias is None else scores + bias).softmax(dim=1)
        outputs.append(probabilities @ v[:, columns].double())
        maps.append(probabilities)
    return torch.cat(outputs, dim=1).to(q.dtype), sum(maps) / heads


def nearest(labels: Tensor, height: int, width: int) -> Tensor:
    """(H, W) carried to (height, width): each pixel takes what lies at its upper left corner."""
    rows = [y * labels.shape[0] // height for y in range(height)]
    columns = [x * labels.shape[1] // width for x in range(width)]
    return labels[rows][:, columns]


def area(mask: Tensor, height: int, width: int) -> Tensor:
    """(H, W) carried to (height, width): each pixel is the mean of all that it covers."""
    out = torch.empty(height, width)
    for y in range(height):
        for x in range(width):
            rows = slice(y * mask.shape[0] // height, -(-(y + 1) * mask.shape[0] // height))
            columns = slice(x * mask.shape[1] // width, -(-(x + 1) * mask.shape[1] // width))
            out[y, x] = mask[rows, columns].mean()
    return out


def blur(image: Tensor) -> Tensor:
    """(..., H, W): 3.3, neighbours weighing e^-1 in each direction, borders mirrored."""
    side, height, width = math.exp(-1), *image.shape[-2:]
    out = torch.zeros_like(image)
    for y, down in ((-1, side), (0, 1.0), (1, side)):
        for x, right in ((-1, side), (0, 1.0), (1, side)):
            rows = [(height - 1) - abs((height - 1) - abs(i + y)) for i in range(height)]
            columns = [(width - 1) - abs((width - 1) - abs(i + x)) for i in range(width)]
            out += down * right / (1 + 2 * side) ** 2 * image[..., rows, :][..., columns]
    return out


def margin_of(strengths: Tensor, dim: int) -> Tensor:
    """How far the second strongest along a dimension is behind the strongest, as a part of it."""
    strongest, second = strengths.topk(2, dim=dim).values.unbind(dim)
    return (strongest - second) / strongest
