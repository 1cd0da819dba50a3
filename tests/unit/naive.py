"""The method as plain loops, one image at a time and in double precision: what the real code is held against.

Nothing here is taken from attention/. Maps are dense (n x n, n x T), tokens outside a mask stay and get minus
infinity, regions, resizing and rates are loops over pixels and tokens. Numbers in brackets are METHOD's sections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from naive_images import bilinear, blur, nearest, over_mean
from torch import Tensor

NONE = -1


@dataclass(frozen=True)
class View:
    """A reference at one block: keys and values (m, c), the mask on its grid (m,) in 0..1, and its weight."""

    k: Tensor
    v: Tensor
    mask: Tensor
    weight: float


@dataclass(frozen=True)
class BlockInput:
    """What segmentation reads of one block: attn1's q and k, attn2's q and k (tokens, c), the grid, the heads."""

    q: Tensor
    k: Tensor
    text_q: Tensor
    text_k: Tensor
    grid: tuple[int, int]
    heads: int


def softmax(scores: Tensor) -> Tensor:
    """exp(score) over their sum; minus infinity counts nothing."""
    highest = max(float(score) for score in scores)
    parts = [0.0 if score == -math.inf else math.exp(float(score) - highest) for score in scores]
    return torch.tensor([part / sum(parts) for part in parts], dtype=torch.float64)


def attention_maps(q: Tensor, k: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) of each head, (heads, n, m)."""
    d = q.shape[1] // heads
    bias = torch.zeros(len(k), dtype=torch.float64) if bias is None else bias
    maps = torch.zeros(heads, len(q), len(k), dtype=torch.float64)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        for i in range(len(q)):
            scores = k[:, part].double() @ q[i, part].double() / math.sqrt(d) + bias
            maps[head, i] = softmax(scores)
    return maps


def apply_maps(maps: Tensor, v: Tensor) -> Tensor:
    """Each head's map times its own part of the values, (n, c)."""
    d = v.shape[1] // len(maps)
    return torch.cat([maps[head] @ v[:, head * d : (head + 1) * d].double() for head in range(len(maps))], dim=1)


def bias_of(views: Sequence[View], target_tok: int) -> Tensor:
    """One concept's biases (2): w + log m, minus infinity where m = 0, less the correction for sizes."""
    reference_tok = sum(len(view.mask) for view in views)
    return torch.tensor(
        [
            view.weight + math.log(float(m)) - math.log(reference_tok / target_tok) if m > 0 else -math.inf
            for view in views
            for m in view.mask
        ],
        dtype=torch.float64,
    )


def with_references(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    concepts: Sequence[Sequence[View]],
    heads: int,
    own: Tensor | None = None,
    target_tok: int | None = None,
) -> Tensor:
    """The joint softmax of (2) and (4) over own and reference tokens; `own` stands for what the own tokens bring."""
    target_tok = len(q) if target_tok is None else target_tok
    views = [view for concept in concepts for view in concept]
    keys = torch.cat([k.double(), *(view.k.double() for view in views)])
    bias = torch.cat([torch.zeros(len(k)).double(), *(bias_of(concept, target_tok) for concept in concepts)])
    maps = attention_maps(q, keys, heads, bias)
    if own is None:
        return apply_maps(maps, torch.cat([v.double(), *(view.v.double() for view in views)]))
    d = q.shape[1] // heads
    out = torch.zeros(len(q), q.shape[1], dtype=torch.float64)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        for i in range(len(q)):
            out[i, part] = own[i, part].double() * maps[head, i, : len(k)].sum()
            place = len(k)
            for view in views:
                for value in view.v:
                    out[i, part] += maps[head, i, place] * value[part].double()
                    place += 1
    return out


def rba(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    concepts: Sequence[Sequence[View]],
    labels: Sequence[int],
    heads: int,
    own: Tensor | None = None,
) -> Tensor:
    """Region-grouped blend attention (4), query by query; `labels` gives each its concept or -1."""
    rows = []
    for i, label in enumerate(labels):
        seen = [] if label == NONE else [concepts[label]]
        own_i = None if own is None else own[i : i + 1]
        rows.append(with_references(q[i : i + 1], k, v, seen, heads, own_i, target_tok=len(q)))
    return torch.cat(rows)


def cross_map(q: Tensor, k: Tensor, heads: int, length: int) -> Tensor:
    """C (n x T): attn2's probabilities averaged over heads, repeated columns summed (3, 8)."""
    probabilities = attention_maps(q, k, heads).mean(dim=0)
    out = torch.zeros(len(q), length, dtype=torch.float64)
    for column in range(len(k)):
        out[:, column % length] += probabilities[:, column]
    return out


def power_average(cross: Tensor, q: Tensor, k: Tensor, heads: int) -> Tensor:
    """(S C + 3 S S C) / 4 with S written out (3.1)."""
    dense = attention_maps(q, k, heads).mean(dim=0)
    return (dense @ cross.double() + 3 * dense @ dense @ cross.double()) / 4


def image_maps(block: BlockInput, size: Sequence[int], length: int) -> Tensor:
    """Steps 1 to 3 of (3): one block's blurred token maps (T, H2, W2)."""
    cross = cross_map(block.text_q, block.text_k, block.heads, length)
    smooth = power_average(cross, block.q, block.k, block.heads)
    maps = torch.zeros(length, *block.grid, dtype=torch.float64)
    for token in range(length):
        for y in range(block.grid[0]):
            for x in range(block.grid[1]):
                maps[token, y, x] = smooth[y * block.grid[1] + x, token]
    return blur(bilinear(maps, size))


def token_maps(blocks: Sequence[BlockInput], size: Sequence[int], length: int) -> Tensor:
    """A of (3): the mean over blocks of each token's map over its spatial mean."""
    each = [torch.stack([over_mean(m) for m in image_maps(block, size, length)]) for block in blocks]
    return torch.stack(each).mean(dim=0)


def background_maps(blocks: Sequence[BlockInput], size: Sequence[int], length: int, starts: Sequence[int]) -> Tensor:
    """F of (3): start tokens together against all others together."""
    each = []
    for block in blocks:
        maps = image_maps(block, size, length)
        start, rest = torch.zeros_like(maps[0]), torch.zeros_like(maps[0])
        for token in range(length):
            if token in starts:
                start += maps[token]
            else:
                rest += maps[token]
        each.append(torch.stack([over_mean(start), over_mean(rest)]))
    return torch.stack(each).mean(dim=0)


def segment(
    maps: Tensor, foreground: Tensor, phrases: Sequence[Sequence[int]], suppression: float, cut: bool
) -> tuple[Tensor, Tensor]:
    """Each pixel's token and concept, or -1 (3); a token in two phrases belongs to the later one."""
    length, height, width = maps.shape
    tokens = torch.full((height, width), NONE)
    concepts = torch.full((height, width), NONE)
    for y in range(height):
        for x in range(width):
            scores = []
            for token in range(length):
                names_one = any(token in phrase for phrase in phrases)
                scores.append(float(maps[token, y, x]) * (1.0 if names_one else suppression))
            if cut and not foreground[y, x]:
                continue
            best = scores.index(max(scores))
            tokens[y, x] = best
            for concept, phrase in enumerate(phrases):
                if best in phrase:
                    concepts[y, x] = concept
    return tokens, concepts


def guidance_rate(delta: Tensor, tokens: Tensor, foreground: Tensor, length: int, cfg: float) -> Tensor:
    """The factor on guidance (5) of one image: delta (ch, H, W), regions on their own grid; (H, W)."""
    size = delta.shape[1:]
    norm = torch.zeros(*size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            norm[y, x] = math.sqrt(sum(float(value) ** 2 for value in delta[:, y, x]))
    tokens, foreground = nearest(tokens, size), nearest(foreground, size)
    in_foreground = _mean_over(norm, foreground)
    rate = torch.zeros(*size, dtype=torch.float64)
    for token in range(length):
        region = tokens == token
        rate[region] = in_foreground / (_mean_over(norm, region) + 1e-8)
    for y in range(size[0]):
        for x in range(size[1]):
            rate[y, x] = min(max(float(rate[y, x]), 0.8), 3.0, 15.0 / cfg)
    return blur(rate[None])[0]


def _mean_over(values: Tensor, where: Tensor) -> float:
    return sum(float(value) for value in values[where]) / (int(where.sum()) + 1e-8)
