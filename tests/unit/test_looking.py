"""Recorded attention: the shares of a plain softmax, heat and correspondence out of them."""

from __future__ import annotations

import math

import pytest
import torch
from magicface.attention.kv import ConceptTokens
from magicface.attention.snapshot import NOWHERE, Gaze, correspondence, heat, shares
from scenes import generator_of, normal, some_mask
from torch import Tensor
from torch.testing import assert_close

HEADS, CHANNELS, GRID = 2, 8, (3, 4)
N = GRID[0] * GRID[1]
VIEWS = (((2, 3), (3, 3)), ((4, 2),))  # grids of two concepts' views


def some_concept(generator: torch.Generator, grids: tuple[tuple[int, int], ...]) -> ConceptTokens:
    places = tuple(torch.nonzero(some_mask(generator, height * width)).flatten() for height, width in grids)
    m = sum(map(len, places))
    k, v = (normal(generator, 1, m, CHANNELS) for _ in range(2))
    return ConceptTokens(2 * k, v, normal(generator, m).float(), places, grids)


def some_gaze(seed: int, given: Tensor | None = None) -> Gaze:
    g = generator_of(seed)
    concepts = (some_concept(g, VIEWS[0]), None, some_concept(g, VIEWS[1]))
    return Gaze(2 * normal(g, 2, N, CHANNELS), normal(g, 2, N, CHANNELS), concepts, given, GRID, HEADS)


def plain_shares(gaze: Gaze, image: int, query: int) -> dict[int, Tensor]:
    """One query's attention to each concept's tokens, head by head and key by key."""
    d = CHANNELS // HEADS
    looked_at = range(len(gaze.concepts)) if gaze.given is None else [int(gaze.given[image, query])]
    found = {i: torch.zeros(c.k.shape[1]) for i, c in enumerate(gaze.concepts) if c is not None}
    for head in range(HEADS):
        part = slice(head * d, (head + 1) * d)
        q = gaze.q[image, query, part]
        scores = [float(q @ key[part]) / math.sqrt(d) for key in gaze.k[image]]
        owners: list[tuple[int, int]] = [(-1, 0)] * N
        for index in looked_at:
            concept = gaze.concepts[index] if index >= 0 else None
            if concept is not None:
                correction = math.log(concept.grid_tok / N)
                for place, key in enumerate(concept.k[0]):
                    scores.append(float(q @ key[part]) / math.sqrt(d) + float(concept.bias[place]) - correction)
                    owners.append((index, place))
        total = sum(math.exp(score) for score in scores)
        for score, (index, place) in zip(scores, owners, strict=True):
            if index >= 0:
                found[index][place] += math.exp(score) / total / HEADS
    return found


def flat(maps: list[list[Tensor]]) -> list[Tensor]:
    return [view for views in maps for view in views]


def within_masks(concept: ConceptTokens, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What maps on the views' grids have at the concept's tokens, in their order; and what elsewhere."""
    inside, outside = [], []
    for places, view in zip(concept.places, maps, strict=True):
        inside.append(view.flatten()[places])
        outside += [value for place, value in enumerate(view.flatten()) if place not in places.tolist()]
    return torch.cat(inside), torch.stack(outside)


def some_given(seed: int) -> Tensor:
    return torch.randint(-1, 3, (2, N), generator=generator_of(seed)).to(torch.int8)


@pytest.mark.parametrize("given", [None, some_given(1)], ids=["rsa", "rba"])
def test_shares_are_those_of_the_softmax(given: Tensor | None) -> None:
    gaze = some_gaze(0, given)
    seen = []
    for some, found in shares(gaze, 1, torch.arange(N)):
        assert found[1] is None
        for row, query in enumerate(some.tolist()):
            for index, expected in plain_shares(gaze, 1, query).items():
                part = found[index]
                assert part is not None
                assert_close(part[row], expected, rtol=1e-5, atol=1e-7)
            seen.append(query)
    assert sorted(seen) == list(range(N))


@pytest.mark.parametrize("given", [None, some_given(2)], ids=["rsa", "rba"])
def test_heat_is_their_mean_on_each_views_grid(given: Tensor | None) -> None:
    gaze, queries = some_gaze(3, given), torch.tensor([1, 4, 5, 9])
    found = heat(gaze, 0, queries)
    assert [[tuple(view.shape) for view in views] for views in found] == [list(VIEWS[0]), [], list(VIEWS[1])]
    of_queries = [plain_shares(gaze, 0, query) for query in queries.tolist()]
    for index in (0, 2):
        concept = gaze.concepts[index]
        assert concept is not None
        inside, outside = within_masks(concept, found[index])
        assert_close(inside, sum(of[index] for of in of_queries) / 4, rtol=1e-5, atol=1e-7)
        assert (outside == 0).all()
    assert 0 < sum(float(view.sum()) for views in found for view in views) < 1


def test_correspondence_is_the_query_that_looks_most() -> None:
    gaze, queries = some_gaze(4), torch.tensor([0, 3, 7, 8, 11])
    of_queries = torch.stack([plain_shares(gaze, 1, query)[0] for query in queries.tolist()])
    found = correspondence(gaze, 1, 0, queries)
    concept = gaze.concepts[0]
    assert concept is not None
    inside, outside = within_masks(concept, found)
    assert torch.equal(inside, queries[of_queries.argmax(dim=0)])
    assert (outside == NOWHERE).all()
    assert correspondence(gaze, 1, 1, queries) == []


def test_queries_of_another_region_match_nothing() -> None:
    given = torch.full((2, N), 2, dtype=torch.int8)
    assert all((view == NOWHERE).all() for view in correspondence(some_gaze(5, given), 0, 0, torch.arange(N)))


def test_many_queries_go_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    gaze = some_gaze(6)
    whole = heat(gaze, 0, torch.arange(N)), correspondence(gaze, 0, 0, torch.arange(N))
    monkeypatch.setattr("magicface.attention.snapshot._QUERIES", 5)
    parts = heat(gaze, 0, torch.arange(N)), correspondence(gaze, 0, 0, torch.arange(N))
    for one, other in zip(flat(whole[0]), flat(parts[0]), strict=True):
        assert_close(one, other)
    assert all(torch.equal(one, other) for one, other in zip(whole[1], parts[1], strict=True))


def test_what_is_kept_is_small_and_shares_nothing_with_the_run() -> None:
    gaze = some_gaze(7, some_given(7))
    before, small = heat(gaze, 0, torch.arange(N)), gaze.kept()
    assert small.q.dtype is torch.float16 and small.nbytes < gaze.nbytes / 2
    gaze.q.zero_()
    gaze.k.zero_()
    for concept in gaze.concepts:
        if concept is not None:
            concept.k.zero_()
    for one, other in zip(flat(before), flat(heat(small, 0, torch.arange(N))), strict=True):
        assert_close(one, other, rtol=1e-2, atol=1e-3)
