"""Attention snapshots: one block's attention to the references, copied so that it can be shown after sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from .injection import InjectionRule
from .kv import BlockKV, ConceptKV, select

NO_QUERY = -1
_CHUNK = 512  # queries whose probabilities are computed together


@dataclass(frozen=True, eq=False)
class AttentionSnapshot:
    """The inputs that are needed to compute a block's attention to the references again.

    Attributes:
        q, k: (b, n, c) the target's queries and own keys.
        kv: keys and values of the references.
        rule: what each query might attend to.
        grid: (hh, ww), n = hh * ww.
        heads: h.
    """

    q: Tensor
    k: Tensor
    kv: BlockKV
    rule: InjectionRule
    grid: tuple[int, int]
    heads: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        tensors = [self.q, self.k, *([] if self.rule.labels is None else [self.rule.labels])]
        for concept in self.kv:
            if concept is not None:
                tensors += [concept.k, *(x for mask in concept.masks for x in (mask.indices, mask.log_mask))]
        return sum(tensor.nbytes for tensor in tensors)

    def compact(self) -> AttentionSnapshot:
        """A copy in main memory and half precision that shares nothing that the run changes; values are left out."""

        def small(x: Tensor) -> Tensor:
            return x.detach().to("cpu", torch.float16 if x.dtype.itemsize > 2 else x.dtype, copy=True)

        def without_values(concept: ConceptKV) -> ConceptKV:
            k, masks = small(concept.k), tuple(mask.to(torch.device("cpu")) for mask in concept.masks)
            return ConceptKV(k, k[:, :0], masks, concept.weights)

        kv = tuple(concept and without_values(concept) for concept in self.kv)
        labels = None if self.rule.labels is None else self.rule.labels.to(torch.int16)
        rule = replace(self.rule, labels=labels, groups=(), fade=None)
        return AttentionSnapshot(small(self.q), small(self.k), kv, rule, self.grid, self.heads)


def attention_to_references(
    snapshot: AttentionSnapshot, image: int, queries: Tensor
) -> Iterator[tuple[Tensor, list[Tensor | None]]]:
    """The probabilities with which some queries (g,) of one image attend to each token of the references.

    Yields:
        Some of the queries, and for each concept (g', m) float32 probabilities, averaged over heads; None for a
        concept that takes no part.

    Source: docs/method.md#layout-stage and docs/method.md#blend-stage.
    """
    for concepts, group in snapshot.rule.visible(image, queries, snapshot.kv):
        for some in group.split(_CHUNK):
            yield some, _probabilities(snapshot, image, some, concepts)


def _probabilities(
    snapshot: AttentionSnapshot, image: int, queries: Tensor, concepts: Sequence[int]
) -> list[Tensor | None]:
    found: list[Tensor | None] = [
        None if concept is None else torch.zeros(len(queries), concept.k.shape[1]) for concept in snapshot.kv
    ]
    n = snapshot.k.shape[1]
    references = select(snapshot.kv, concepts, n)
    if references is None:
        return found
    ref_k, _, ref_bias = references
    bias = torch.cat((torch.zeros(n), ref_bias))
    keys = torch.cat((snapshot.k[image], ref_k[0])).float()
    k_heads = rearrange(keys, "m (h d) -> h d m", h=snapshot.heads)
    q_heads = rearrange(snapshot.q[image, queries].float(), "g (h d) -> h g d", h=snapshot.heads)
    total = torch.zeros(len(queries), len(keys))
    for query, key in zip(q_heads, k_heads, strict=True):
        total += (query @ key / math.sqrt(query.shape[-1]) + bias).softmax(dim=-1)
    total = total / snapshot.heads
    start = n
    for index in concepts:
        concept = snapshot.kv[index]
        if concept is not None:
            end = start + concept.k.shape[1]
            found[index], start = total[:, start:end], end
    return found


def heat(snapshot: AttentionSnapshot, image: int, queries: Tensor) -> list[list[Tensor]]:
    """How much attention some queries (g,) of one image, on average, give to each location of the references.

    Returns:
        For each concept and each of its views (hh, ww) float32 shares of attention. All of them sum to at most 1; the
        rest goes to the picture itself. No views for a concept that takes no part.
    """
    sums = [None if concept is None else torch.zeros(concept.k.shape[1]) for concept in snapshot.kv]
    for _, found in attention_to_references(snapshot, image, queries):
        for total, part in zip(sums, found, strict=True):
            if total is not None and part is not None:
                total += part.sum(dim=0)
    return [
        [] if concept is None or total is None else _on_grids(concept, total / len(queries), 0.0)
        for concept, total in zip(snapshot.kv, sums, strict=True)
    ]


def correspondence(snapshot: AttentionSnapshot, image: int, concept_index: int, queries: Tensor) -> list[Tensor]:
    """Which of some queries (g,) of one image attends most to each location of a concept's references.

    Returns:
        For each of the concept's views (hh, ww) int64 token indices of the picture, -1 where no query attends.
    """
    concept = snapshot.kv[concept_index]
    if concept is None:
        return []
    best = torch.zeros(concept.k.shape[1])
    match = torch.full((concept.k.shape[1],), NO_QUERY)
    for some, found in attention_to_references(snapshot, image, queries):
        part = found[concept_index]
        assert part is not None
        highest, index = part.max(dim=0)
        match = torch.where(highest > best, some[index], match)
        best = torch.maximum(best, highest)
    return _on_grids(concept, match, NO_QUERY)


def _on_grids(concept: ConceptKV, values: Tensor, elsewhere: float) -> list[Tensor]:
    """Values (m,) of a concept's tokens on the grids of its views."""
    maps = []
    of_views = values.split([len(mask.indices) for mask in concept.masks])
    for mask, part in zip(concept.masks, of_views, strict=True):
        cells = values.new_full((mask.grid[0] * mask.grid[1],), elsewhere)
        cells[mask.indices] = part
        maps.append(cells.view(mask.grid))
    return maps
