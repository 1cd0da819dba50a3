"""Attention with references: one image at a time and in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NONE = -1


@dataclass(frozen=True)
class View:
    """A view at one block: keys and values (m, c), the mask on its grid (m,) in 0..1, and its weight."""

    k: Tensor
    v: Tensor
    mask: Tensor
    weight: float


def softmax(scores: Tensor) -> Tensor:
    """exp(score) divided by the sum of all; a score of minus infinity gives 0."""
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


def quick_attention_maps(q: Tensor, k: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """`attention_maps` without loops over queries, for real UNets; tests/unit/test_oracle.py compares the two."""
    q_heads, k_heads = (x.double().view(len(x), heads, -1).transpose(0, 1) for x in (q, k))
    scores = q_heads @ k_heads.transpose(1, 2) / math.sqrt(q_heads.shape[-1])
    return (scores if bias is None else scores + bias).softmax(dim=-1)


AttentionMaps = Callable[[Tensor, Tensor, int, "Tensor | None"], Tensor]
"""`attention_maps` or `quick_attention_maps`."""


def apply_maps(maps: Tensor, v: Tensor) -> Tensor:
    """Each head's map times that head's values, (n, c)."""
    d = v.shape[1] // len(maps)
    return torch.cat([maps[head] @ v[:, head * d : (head + 1) * d].double() for head in range(len(maps))], dim=1)


def bias_of(views: Sequence[View], target_tok: int) -> Tensor:
    """One concept's biases: w + log m, minus infinity where m = 0, less the logarithm of the ratio of token counts.

    Source: docs/method.md#weighted-masks.
    """
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
    maps_of: AttentionMaps = attention_maps,
) -> Tensor:
    """One softmax over own and reference tokens, (n, c); `own`, if given, replaces the own tokens' attention.

    Source: docs/method.md#layout-stage.
    """
    target_tok = len(q) if target_tok is None else target_tok
    views = [view for concept in concepts for view in concept]
    keys = torch.cat([k.double(), *(view.k.double() for view in views)])
    bias = torch.cat([torch.zeros(len(k)).double(), *(bias_of(concept, target_tok) for concept in concepts)])
    maps = maps_of(q, keys, heads, bias)
    if own is None:
        return apply_maps(maps, torch.cat([v.double(), *(view.v.double() for view in views)]))
    d = q.shape[1] // heads
    out = torch.zeros(len(q), q.shape[1], dtype=torch.float64)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        for i in range(len(q)):
            out[i, part] = own[i, part].double() * maps[head, i, : len(k)].sum()
            column = len(k)
            for view in views:
                for value in view.v:
                    out[i, part] += maps[head, i, column] * value[part].double()
                    column += 1
    return out


def inject(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    concepts: Sequence[Sequence[View]],
    visible: Sequence[Sequence[int]],
    heads: int,
    own: Tensor | None = None,
    maps_of: AttentionMaps = attention_maps,
) -> Tensor:
    """Self-attention (n, c) in which each query attends to the concepts that `visible` names for it.

    In the layout stage that is all concepts, in the blend stage that of the query's region.

    Source: docs/method.md#layout-stage, docs/method.md#blend-stage.
    """
    out = torch.zeros(len(q), v.shape[1], dtype=torch.float64)
    for seen in {tuple(indices) for indices in visible}:
        rows = [i for i, indices in enumerate(visible) if tuple(indices) == seen]
        chosen = [concepts[index] for index in seen]
        out[rows] = with_references(
            q[rows], k, v, chosen, heads, None if own is None else own[rows], len(q), maps_of
        )  # fmt: skip
    return out


def of_region(labels: Sequence[int]) -> list[list[int]]:
    """What each query may attend to in the blend stage: the concept of its region, or no concept outside regions."""
    return [[] if label == NONE else [label] for label in labels]
