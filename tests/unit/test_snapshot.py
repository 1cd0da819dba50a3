"""Attention snapshots: their probabilities equal a plain softmax; heat and correspondence are computed from these."""

from __future__ import annotations

import math

import pytest
import torch
from magicface.attention.injection import RSA, InjectionRule, rba
from magicface.attention.kv import ConceptKV
from magicface.attention.masks import TokenMask
from magicface.attention.regions import group_queries
from magicface.attention.snapshot import NO_QUERY, AttentionSnapshot, attention_to_references, correspondence, heat
from scenes import generator_of, normal, some_mask
from torch import Tensor
from torch.testing import assert_close

HEADS, CHANNELS, GRID = 2, 8, (3, 4)
N = GRID[0] * GRID[1]
VIEWS = (((2, 3), (3, 3)), ((4, 2),))  # grids of two concepts' views


def some_concept(generator: torch.Generator, grids: tuple[tuple[int, int], ...]) -> ConceptKV:
    masks = []
    for height, width in grids:
        mask = some_mask(generator, height * width).float()
        indices = torch.nonzero(mask).flatten()
        masks.append(TokenMask(indices, mask[indices].log(), (height, width)))
    m = sum(len(mask.indices) for mask in masks)
    k, v = (normal(generator, 1, m, CHANNELS) for _ in range(2))
    return ConceptKV(2 * k, v, tuple(masks), (1.5, -0.5)[: len(grids)])


def some_snapshot(seed: int, rule: InjectionRule = RSA) -> AttentionSnapshot:
    g = generator_of(seed)
    kv = (some_concept(g, VIEWS[0]), None, some_concept(g, VIEWS[1]))
    return AttentionSnapshot(2 * normal(g, 2, N, CHANNELS), normal(g, 2, N, CHANNELS), kv, rule, GRID, HEADS)


def some_rba(seed: int) -> InjectionRule:
    return rba(torch.randint(-1, 3, (2, N), generator=generator_of(seed)), torch.device("cpu"))


def alternating() -> InjectionRule:
    """A third rule: even queries attend to the first concept, odd ones to the third and the absent second one."""
    labels = (torch.arange(N) % 2).expand(2, N)
    return InjectionRule(labels, group_queries(labels, torch.device("cpu")), ((0,), (1, 2)))


def visible_to(rule: InjectionRule, image: int, query: int) -> list[int]:
    """The concepts that a query may attend to by the rules above."""
    if rule.labels is None:
        return [0, 1, 2]
    label = int(rule.labels[image, query])
    if rule.concepts is not None:
        return [0] if query % 2 == 0 else [1, 2]
    return [] if label < 0 else [label]


def plain_attention(snapshot: AttentionSnapshot, image: int, query: int) -> dict[int, Tensor]:
    """One query's attention to each concept's tokens, computed head by head and key by key."""
    d = CHANNELS // HEADS
    found = {i: torch.zeros(c.k.shape[1]) for i, c in enumerate(snapshot.kv) if c is not None}
    for head in range(HEADS):
        part = slice(head * d, (head + 1) * d)
        q = snapshot.q[image, query, part]
        scores = [float(q @ key[part]) / math.sqrt(d) for key in snapshot.k[image]]
        owners: list[tuple[int, int]] = [(-1, 0)] * N
        for index in visible_to(snapshot.rule, image, query):
            concept = snapshot.kv[index]
            if concept is None:
                continue
            correction = math.log(sum(mask.grid[0] * mask.grid[1] for mask in concept.masks) / N)
            token = 0
            for mask, weight in zip(concept.masks, concept.weights, strict=True):
                for log_mask in mask.log_mask.tolist():
                    bias = weight + log_mask - correction
                    scores.append(float(q @ concept.k[0, token, part]) / math.sqrt(d) + bias)
                    owners.append((index, token))
                    token += 1
        total = sum(math.exp(score) for score in scores)
        for score, (index, token) in zip(scores, owners, strict=True):
            if index >= 0:
                found[index][token] += math.exp(score) / total / HEADS
    return found


def flat(maps: list[list[Tensor]]) -> list[Tensor]:
    return [view for views in maps for view in views]


def within_masks(concept: ConceptKV, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Values of maps on the views' grids: those at the concept's tokens, in their order, and all others."""
    inside, outside = [], []
    for mask, view in zip(concept.masks, maps, strict=True):
        inside.append(view.flatten()[mask.indices])
        outside += [value for token, value in enumerate(view.flatten()) if token not in mask.indices.tolist()]
    return torch.cat(inside), torch.stack(outside)


RULES = pytest.mark.parametrize(
    "rule", [RSA, some_rba(1), some_rba(2), alternating()], ids=["rsa", "rba", "other rba", "alternating"]
)


@RULES
def test_attention_equals_the_softmax(rule: InjectionRule) -> None:
    snapshot = some_snapshot(0, rule)
    seen = []
    for some, found in attention_to_references(snapshot, 1, torch.arange(N)):
        assert found[1] is None
        for row, query in enumerate(some.tolist()):
            for index, expected in plain_attention(snapshot, 1, query).items():
                part = found[index]
                assert part is not None
                assert_close(part[row], expected, rtol=1e-5, atol=1e-7)
            seen.append(query)
    assert sorted(seen) == list(range(N))


@RULES
def test_heat_is_the_mean_on_each_views_grid(rule: InjectionRule) -> None:
    snapshot, queries = some_snapshot(3, rule), torch.tensor([1, 4, 5, 9])
    found = heat(snapshot, 0, queries)
    assert [[tuple(view.shape) for view in views] for views in found] == [list(VIEWS[0]), [], list(VIEWS[1])]
    of_queries = [plain_attention(snapshot, 0, query) for query in queries.tolist()]
    for index in (0, 2):
        concept = snapshot.kv[index]
        assert concept is not None
        inside, outside = within_masks(concept, found[index])
        assert_close(inside, sum(of[index] for of in of_queries) / 4, rtol=1e-5, atol=1e-7)
        assert (outside == 0).all()
    assert 0 < sum(float(view.sum()) for views in found for view in views) < 1


@pytest.mark.parametrize("rule", [RSA, alternating()], ids=["rsa", "alternating"])
def test_correspondence_is_the_query_that_attends_most(rule: InjectionRule) -> None:
    snapshot, queries = some_snapshot(4, rule), torch.tensor([0, 3, 7, 8, 11])
    of_queries = torch.stack([plain_attention(snapshot, 1, query)[0] for query in queries.tolist()])
    found = correspondence(snapshot, 1, 0, queries)
    concept = snapshot.kv[0]
    assert concept is not None
    inside, outside = within_masks(concept, found)
    assert torch.equal(inside, queries[of_queries.argmax(dim=0)])
    assert (outside == NO_QUERY).all()
    assert correspondence(snapshot, 1, 1, queries) == []


def test_queries_of_another_region_match_nothing() -> None:
    rule = rba(torch.full((2, N), 2), torch.device("cpu"))
    assert all((view == NO_QUERY).all() for view in correspondence(some_snapshot(5, rule), 0, 0, torch.arange(N)))


def test_many_queries_are_processed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = some_snapshot(6)
    whole = heat(snapshot, 0, torch.arange(N)), correspondence(snapshot, 0, 0, torch.arange(N))
    monkeypatch.setattr("magicface.attention.snapshot._CHUNK", 5)
    parts = heat(snapshot, 0, torch.arange(N)), correspondence(snapshot, 0, 0, torch.arange(N))
    for one, other in zip(flat(whole[0]), flat(parts[0]), strict=True):
        assert_close(one, other)
    assert all(torch.equal(one, other) for one, other in zip(whole[1], parts[1], strict=True))


@RULES
def test_a_compact_snapshot_is_small_and_shares_nothing_with_the_run(rule: InjectionRule) -> None:
    snapshot = some_snapshot(7, rule)
    before, small = heat(snapshot, 0, torch.arange(N)), snapshot.compact()
    assert small.q.dtype is torch.float16 and small.nbytes < snapshot.nbytes / 2
    snapshot.q.zero_()
    snapshot.k.zero_()
    for concept in snapshot.kv:
        if concept is not None:
            concept.k.zero_()
    for one, other in zip(flat(before), flat(heat(small, 0, torch.arange(N))), strict=True):
        assert_close(one, other, rtol=1e-2, atol=1e-3)
