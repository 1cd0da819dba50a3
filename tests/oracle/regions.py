"""Attention maps by token, regions, and the guidance rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import NONE, AttentionMaps, attention_maps
from .images import blur, nearest, over_mean, upsample_and_blur


@dataclass(frozen=True)
class BlockInput:
    """The inputs of segmentation from one block: q and k of attn1 and of attn2 (tokens, c), the grid, the heads."""

    q: Tensor
    k: Tensor
    text_q: Tensor
    text_k: Tensor
    grid: tuple[int, int]
    heads: int


def cross_map(q: Tensor, k: Tensor, heads: int, length: int, maps_of: AttentionMaps = attention_maps) -> Tensor:
    """C (n x T): attn2's probabilities averaged over heads, with repeated columns summed."""
    probabilities = maps_of(q, k, heads, None).mean(dim=0)
    out = torch.zeros(len(q), length, dtype=torch.float64)
    for column in range(len(k)):
        out[:, column % length] += probabilities[:, column]
    return out


def self_map(q: Tensor, k: Tensor, heads: int, maps_of: AttentionMaps = attention_maps) -> Tensor:
    """S (n x n): attn1's probabilities averaged over heads."""
    return maps_of(q, k, heads, None).mean(dim=0)


def power_average(cross: Tensor, smoothing: Tensor) -> Tensor:
    """(S C + 3 S S C) / 4 for maps C (n x T) and S (n x n)."""
    return (smoothing @ cross.double() + 3 * smoothing @ smoothing @ cross.double()) / 4


def image_maps(
    block: BlockInput, size: Sequence[int], length: int, maps_of: AttentionMaps = attention_maps
) -> Tensor:  # fmt: skip
    """One block's maps by token (T, H2, W2): smoothed, resized and blurred."""
    cross = cross_map(block.text_q, block.text_k, block.heads, length, maps_of)
    smooth = power_average(cross, self_map(block.q, block.k, block.heads, maps_of))
    maps = torch.zeros(length, *block.grid, dtype=torch.float64)
    for y in range(block.grid[0]):
        for x in range(block.grid[1]):
            maps[:, y, x] = smooth[y * block.grid[1] + x]
    return upsample_and_blur(maps, size)


def token_maps(blocks: Sequence[Tensor]) -> Tensor:
    """A (T, H2, W2): each token's map divided by its spatial mean, averaged over the blocks' `image_maps`."""
    return torch.stack([torch.stack([over_mean(m) for m in maps]) for maps in blocks]).mean(dim=0)


def background_maps(blocks: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    """F (2, H2, W2): the maps of the start tokens and of the rest, each divided by its mean, averaged over blocks."""
    each = []
    for maps in blocks:
        start, rest = torch.zeros_like(maps[0]), torch.zeros_like(maps[0])
        for token in range(len(maps)):
            if token in starts:
                start += maps[token]
            else:
                rest += maps[token]
        each.append(torch.stack([over_mean(start), over_mean(rest)]))
    return torch.stack(each).mean(dim=0)


def strengths(maps: Tensor, phrases: Sequence[Sequence[int]], suppression: float) -> Tensor:
    """Token maps (T, H, W), in which tokens that name no concept are suppressed."""
    factors = [1.0 if any(token in phrase for phrase in phrases) else suppression for token in range(len(maps))]
    return torch.stack([factor * one for factor, one in zip(factors, maps, strict=True)])


def segment(
    maps: Tensor, foreground: Tensor, phrases: Sequence[Sequence[int]], suppression: float, cut: bool
) -> tuple[Tensor, Tensor]:
    """Each pixel's token and concept, or -1; a token in two phrases belongs to the later one.

    Source: docs/method.md#segmentation.
    """
    scores = strengths(maps, phrases, suppression).tolist()
    height, width = maps.shape[1:]
    tokens = torch.full((height, width), NONE)
    concepts = torch.full((height, width), NONE)
    for y in range(height):
        for x in range(width):
            if cut and not foreground[y, x]:
                continue
            of_pixel = [score[y][x] for score in scores]
            best = of_pixel.index(max(of_pixel))
            tokens[y, x] = best
            for concept, phrase in enumerate(phrases):
                if best in phrase:
                    concepts[y, x] = concept
    return tokens, concepts


def margin_of(scores: Tensor, dim: int) -> Tensor:
    """The difference of the two strongest scores along a dimension, relative to the strongest."""
    strongest, second = scores.topk(2, dim=dim).values.unbind(dim)
    return (strongest - second) / strongest


def guidance_rate(delta: Tensor, labels: Tensor, foreground: Tensor, count: int, cfg: float) -> Tensor:
    """The factor on guidance (H, W) of one image, from delta (ch, H, W), and labels and foreground on their grid.

    Source: docs/method.md#semantic-guidance.
    """
    size = delta.shape[1:]
    norm = torch.zeros(*size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            norm[y, x] = math.sqrt(sum(float(value) ** 2 for value in delta[:, y, x]))
    labels, foreground = nearest(labels, size), nearest(foreground, size)
    in_foreground = _mean_over(norm, foreground)
    rate = torch.zeros(*size, dtype=torch.float64)
    for label in range(count):
        region = labels == label
        rate[region] = in_foreground / (_mean_over(norm, region) + 1e-8)
    for y in range(size[0]):
        for x in range(size[1]):
            rate[y, x] = min(max(float(rate[y, x]), 0.8), 3.0, 15.0 / cfg)
    return blur(rate[None])[0]


def _mean_over(values: Tensor, where: Tensor) -> float:
    return sum(float(value) for value in values[where]) / (int(where.sum()) + 1e-8)
