"""Where the picture looks: one block's attention to the references, kept to be shown after sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .references import ConceptTokens

NOWHERE = -1
_QUERIES = 512  # looked at together


@dataclass(frozen=True, eq=False)
class Gaze:
    """What RSA or RBA had before it at one block: enough to ask later where any pixel looked.

    Attributes:
        q, k: (b, n, c) the target's queries and own keys.
        concepts: one entry a concept; None takes no part.
        given: (b, n) int8 in main memory, the concept whose reference a query was given, -1 for none; None where
            every query was given all of them (RSA).
        grid: (hh, ww), n = hh * ww.
        heads: h.
    """

    q: Tensor
    k: Tensor
    concepts: tuple[ConceptTokens | None, ...]
    given: Tensor | None
    grid: tuple[int, int]
    heads: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        kept = [self.q, self.k, *([] if self.given is None else [self.given])]
        for concept in self.concepts:
            kept += [concept.k, concept.bias, *concept.places] if concept else []
        return sum(tensor.nbytes for tensor in kept)

    def kept(self) -> Gaze:
        """The same in main memory and half precision, sharing nothing with the run; values are left out."""

        def small(x: Tensor) -> Tensor:
            return x.detach().to("cpu", torch.float16 if x.dtype.itemsize > 2 else x.dtype, copy=True)

        def without_values(concept: ConceptTokens) -> ConceptTokens:
            places = tuple(tokens.cpu() for tokens in concept.places)
            return ConceptTokens(small(concept.k), torch.empty(0), concept.bias.cpu(), places, concept.grids)

        concepts = tuple(concept and without_values(concept) for concept in self.concepts)
        return Gaze(small(self.q), small(self.k), concepts, self.given, self.grid, self.heads)


def shares(gaze: Gaze, image: int, queries: Tensor) -> Iterator[tuple[Tensor, list[Tensor | None]]]:
    """The share of its attention that each query gives to each token of the references.

    Args:
        gaze: what was kept.
        image: of the batch.
        queries: (g,) int64 tokens.

    Yields:
        Some of the queries, and for each concept (g', m) float32 probabilities, averaged over heads; None for a
        concept that has no tokens.

    Source: METHOD 2 and 4.
    """
    everyone = [index for index, concept in enumerate(gaze.concepts) if concept is not None]
    if gaze.given is None:
        groups = [(everyone, queries)]
    else:
        of_query = gaze.given[image, queries]
        groups = [([index] if index in everyone else [], queries[of_query == index]) for index in of_query.unique()]
    for looked_at, group in groups:
        for some in group.split(_QUERIES):
            yield some, _probabilities(gaze, image, some, looked_at)


def _probabilities(gaze: Gaze, image: int, queries: Tensor, looked_at: Sequence[int]) -> list[Tensor | None]:
    found: list[Tensor | None] = [
        None if concept is None else torch.zeros(len(queries), concept.k.shape[1]) for concept in gaze.concepts
    ]
    chosen = [(index, concept) for index in looked_at if (concept := gaze.concepts[index]) is not None]
    if not chosen:
        return found
    n = gaze.k.shape[1]
    biases = [concept.bias_for(n, torch.float32) for _, concept in chosen]
    bias = torch.cat([torch.zeros(n), *biases])
    keys = torch.cat([gaze.k[image], *(concept.k[0] for _, concept in chosen)]).float()
    of_heads = rearrange(keys, "m (h d) -> h d m", h=gaze.heads)
    q = rearrange(gaze.q[image, queries].float(), "g (h d) -> h g d", h=gaze.heads)
    total = torch.zeros(len(queries), len(keys))
    for query, key in zip(q, of_heads, strict=True):
        total += (query @ key / math.sqrt(query.shape[-1]) + bias).softmax(dim=-1)
    parts = (total / gaze.heads).split([n, *(len(bias) for bias in biases)], dim=-1)[1:]
    for (index, _), part in zip(chosen, parts, strict=True):
        found[index] = part
    return found


def heat(gaze: Gaze, image: int, queries: Tensor) -> list[list[Tensor]]:
    """How much some queries, on average, look at each place of the references.

    Args:
        gaze: what was kept.
        image: of the batch.
        queries: (g,) int64 tokens, at least one.

    Returns:
        For each concept and each of its views (hh, ww) float32 shares of attention; all of them together sum to at
        most 1, the rest being what the picture gave to itself. No views for a concept without tokens.
    """
    sums = [None if concept is None else torch.zeros(concept.k.shape[1]) for concept in gaze.concepts]
    for _, found in shares(gaze, image, queries):
        for total, part in zip(sums, found, strict=True):
            if total is not None and part is not None:
                total += part.sum(dim=0)
    return [
        [] if concept is None or total is None else _on_views(concept, total / len(queries), 0.0)
        for concept, total in zip(gaze.concepts, sums, strict=True)
    ]


def correspondence(gaze: Gaze, image: int, concept_index: int, queries: Tensor) -> list[Tensor]:
    """Which query looks most at each place of a concept's references.

    Args:
        gaze: what was kept.
        image: of the batch.
        concept_index: the concept.
        queries: (g,) int64 tokens, at least one.

    Returns:
        For each of the concept's views (hh, ww) int64 tokens of the picture, -1 where no query looks.
    """
    concept = gaze.concepts[concept_index]
    if concept is None:
        return []
    best = torch.zeros(concept.k.shape[1])
    match = torch.full((concept.k.shape[1],), NOWHERE)
    for some, found in shares(gaze, image, queries):
        part = found[concept_index]
        assert part is not None
        highest, place = part.max(dim=0)
        match = torch.where(highest > best, some[place], match)
        best = torch.maximum(best, highest)
    return _on_views(concept, match, NOWHERE)


def _on_views(concept: ConceptTokens, values: Tensor, elsewhere: float) -> list[Tensor]:
    """Values (m,) of a concept's tokens on the grids of its views."""
    maps = []
    of_views = values.split([len(places) for places in concept.places])
    for (height, width), places, part in zip(concept.grids, concept.places, of_views, strict=True):
        laid_out = values.new_full((height * width,), elsewhere)
        laid_out[places] = part
        maps.append(laid_out.view(height, width))
    return maps
