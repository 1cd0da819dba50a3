"""Injection rules compared with the oracle: RSA, RBA and a third one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.attention.attend import TorchAttend
from magicface.attention.injection import RSA, InjectionRule, fading, rba, restricted
from magicface.attention.kv import BlockKV
from magicface.attention.regions import group_queries
from magicface.attention.segmentation import segment
from oracle import attention as oracle
from oracle.attention import of_region
from scenes import as_concept, generator_of, normal, some_view
from torch.testing import assert_close

CPU = torch.device("cpu")
view_sizes_of_concepts = st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=3), min_size=1, max_size=3)


def alternating(images: int, n: int) -> InjectionRule:
    """A third rule: even queries attend to the first concept, odd queries to the first two."""
    labels = (torch.arange(n) % 2).expand(images, n)
    return InjectionRule(labels, group_queries(labels, CPU), ((0,), (0, 1)))


RULES: dict[str, Callable[[int, int], InjectionRule]] = {
    "RSA": lambda images, n: RSA,
    "RBA": lambda images, n: rba(torch.randint(-1, 3, (images, n), generator=generator_of(images * n)), CPU),
    "alternating": alternating,
}


@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 2),
    heads=st.integers(1, 3),
    n=st.integers(1, 8),
    sizes=view_sizes_of_concepts,
    with_own=st.booleans(),
)
def test_rsa_equals_the_loops(
    seed: int, images: int, heads: int, n: int, sizes: list[list[int]], with_own: bool
) -> None:
    """With any number of concepts and views, fractional masks, weights, and grids that differ from the target's."""
    g = generator_of(seed)
    q, k, v, own = (normal(g, images, n, 4 * heads) for _ in range(4))
    concepts = [[some_view(g, size, 4 * heads) for size in views] for views in sizes]
    found = RSA(TorchAttend(heads), q, k, v, [as_concept(views) for views in concepts], own if with_own else None)
    for image in range(images):
        expected = oracle.with_references(
            q[image], k[image], v[image], concepts, heads, own[image] if with_own else None
        )
        assert_close(found[image], expected, rtol=1e-6, atol=1e-6)


@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 3),
    heads=st.integers(1, 2),
    n=st.integers(1, 16),
    sizes=view_sizes_of_concepts,
    with_own=st.booleans(),
)
def test_rba_equals_the_loops(
    seed: int, images: int, heads: int, n: int, sizes: list[list[int]], with_own: bool
) -> None:
    """With different regions in each image, pixels in no region, and regions without pixels."""
    g = generator_of(seed)
    q, k, v, own = (normal(g, images, n, 4 * heads) for _ in range(4))
    concepts = [[some_view(g, size, 4 * heads) for size in views] for views in sizes]
    labels = torch.randint(-1, len(concepts), (images, n), generator=g)
    kv = [as_concept(views) for views in concepts]
    found = rba(labels, CPU)(TorchAttend(heads), q, k, v, kv, own if with_own else None)
    for image in range(images):
        visible = of_region(labels[image].tolist())
        expected = oracle.inject(
            q[image], k[image], v[image], concepts, visible, heads, own[image] if with_own else None
        )
        assert_close(found[image], expected, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 2**32), images=st.integers(1, 2), n=st.integers(1, 12), with_own=st.booleans())
def test_a_third_rule_equals_the_loops(seed: int, images: int, n: int, with_own: bool) -> None:
    g = generator_of(seed)
    q, k, v, own = (normal(g, images, n, 8) for _ in range(4))
    concepts = [[some_view(g, 5, 8)], [some_view(g, 3, 8), some_view(g, 4, 8)], [some_view(g, 2, 8)]]
    kv = [as_concept(views) for views in concepts]
    found = alternating(images, n)(TorchAttend(2), q, k, v, kv, own if with_own else None)
    visible = [[0] if query % 2 == 0 else [0, 1] for query in range(n)]
    for image in range(images):
        expected = oracle.inject(q[image], k[image], v[image], concepts, visible, 2, own[image] if with_own else None)
        assert_close(found[image], expected, rtol=1e-6, atol=1e-6)


def visible_to(rule: InjectionRule, image: int, n: int, kv: BlockKV) -> list[set[int]]:
    """The concepts that each query may attend to by a rule; asserts that the rule names each query once."""
    found: dict[int, set[int]] = {}
    for concepts, queries in rule.visible(image, torch.arange(n), kv):
        for query in queries.tolist():
            assert query not in found
            found[query] = set(concepts)
    assert sorted(found) == list(range(n))
    return [found[query] for query in range(n)]


@pytest.mark.parametrize("name", RULES)
def test_attention_depends_on_the_visible_concepts_only(name: str) -> None:
    """Changing a concept's keys and values changes the queries that may attend to it, and not a bit of the others."""
    g, images, n = generator_of(9), 2, 9
    q, k, v = (normal(g, images, n, 8) for _ in range(3))
    views = [[some_view(g, 5, 8)], [some_view(g, 4, 8), some_view(g, 3, 8)], [some_view(g, 6, 8)]]
    kv: list = [as_concept(of_concept) for of_concept in views]
    rule, attend = RULES[name](images, n), TorchAttend(2)
    before = rule(attend, q, k, v, kv)
    for changed in range(len(kv)):
        others = list(kv)
        others[changed] = as_concept([some_view(g, len(view.mask), 8) for view in views[changed]])
        differs = (rule(attend, q, k, v, others) != before).any(dim=-1)
        for image in range(images):
            sees = [changed in concepts for concepts in visible_to(rule, image, n, kv)]
            assert differs[image].tolist() == sees


def test_a_subset_of_queries_has_the_same_groups() -> None:
    rule, kv = alternating(2, 9), [None, None]
    groups = rule.visible(1, torch.tensor([8, 3, 4]), kv)
    assert [(tuple(concepts), queries.tolist()) for concepts, queries in groups] == [((0,), [8, 4]), ((0, 1), [3])]
    [(concepts, queries)] = RSA.visible(0, torch.tensor([2, 0]), kv)
    assert (list(concepts), queries.tolist()) == ([0, 1], [2, 0])


@given(seed=st.integers(0, 2**32), n=st.integers(2, 9), name=st.sampled_from(sorted(RULES)))
def test_ordinary_attention_as_own_attention_changes_nothing(seed: int, n: int, name: str) -> None:
    g = generator_of(seed)
    q, k, v = (normal(g, 2, n, 8) for _ in range(3))
    concepts = [as_concept([some_view(g, 5, 8)]), None, as_concept([some_view(g, 3, 8), some_view(g, 3, 8)])]
    rule, attend = RULES[name](2, n), TorchAttend(2)
    assert_close(rule(attend, q, k, v, concepts, attend(q, k, v)), rule(attend, q, k, v, concepts))


def test_absent_concepts_change_nothing() -> None:
    g = generator_of(1)
    q, k, v, own = (normal(g, 2, 5, 8) for _ in range(4))
    view = some_view(g, 4, 8)
    attend = TorchAttend(2)
    among_absent = RSA(attend, q, k, v, [None, as_concept([view]), None])
    assert torch.equal(among_absent, RSA(attend, q, k, v, [as_concept([view])]))
    assert not torch.allclose(among_absent, attend(q, k, v))
    absent: Sequence[list[None]] = ([], [None], [None, None])
    for nobody in absent:
        assert torch.equal(RSA(attend, q, k, v, nobody), attend(q, k, v))
        assert torch.equal(RSA(attend, q, k, v, nobody, own), own)


def test_weights_do_not_depend_on_added_own_keys() -> None:
    """Keys that another pack adds count as own keys; a weight is still relative to the number of queries."""
    g = generator_of(2)
    q, k, v = normal(g, 1, 4, 8), normal(g, 1, 7, 8), normal(g, 1, 7, 8)
    view = some_view(g, 6, 8)
    found = RSA(TorchAttend(2), q, k, v, [as_concept([view])])
    assert_close(found[0], oracle.with_references(q[0], k[0], v[0], [[view]], 2), rtol=1e-6, atol=1e-6)


def test_pixels_in_no_region_and_regions_of_absent_concepts_attend_to_the_target_only() -> None:
    g = generator_of(1)
    q, k, v, own = (normal(g, 1, 6, 8) for _ in range(4))
    view = some_view(g, 4, 8)
    concepts = [as_concept([view]), None]
    labels = torch.tensor([[0, -1, 1, 0, 1, -1]])
    attend, rule = TorchAttend(2), rba(labels, CPU)
    plain, seen = attend(q, k, v), RSA(attend, q, k, v, [concepts[0]])
    out = rule(attend, q, k, v, concepts)
    assert_close(out[0, [1, 2, 4, 5]], plain[0, [1, 2, 4, 5]])
    assert_close(out[0, [0, 3]], seen[0, [0, 3]])
    assert not torch.allclose(seen, plain)
    out = rule(attend, q, k, v, concepts, own)
    assert torch.equal(out[0, [1, 2, 4, 5]], own[0, [1, 2, 4, 5]])
    expected = oracle.inject(q[0], k[0], v[0], [[view], []], of_region(labels[0].tolist()), 2, own[0])
    assert_close(out[0], expected, rtol=1e-6, atol=1e-6)


def test_rba_with_one_region_everywhere_is_rsa_with_that_concept() -> None:
    g = generator_of(2)
    q, k, v = (normal(g, 2, 6, 8) for _ in range(3))
    concepts = [as_concept([some_view(g, 4, 8)]), as_concept([some_view(g, 5, 8)])]
    out = rba(torch.ones(2, 6, dtype=torch.int64), CPU)(TorchAttend(2), q, k, v, concepts)
    assert_close(out, RSA(TorchAttend(2), q, k, v, concepts[1:]))


@pytest.mark.parametrize("name", RULES)
def test_inputs_do_not_change(name: str) -> None:
    g = generator_of(3)
    given_tensors = [normal(g, 1, 4, 8) for _ in range(4)]
    before = [tensor.clone() for tensor in given_tensors]
    concepts = [as_concept([some_view(g, 4, 8)]), None, None]
    RULES[name](1, 4)(TorchAttend(2), *given_tensors[:3], concepts, given_tensors[3])
    assert all(torch.equal(one, other) for one, other in zip(given_tensors, before, strict=True))


def test_a_word_in_two_phrases_attends_to_the_later_concept() -> None:
    """This covers the way from overlapping phrases to the reference that a pixel attends to."""
    g = generator_of(4)
    q, k, v = (normal(g, 1, 4, 8) for _ in range(3))
    views = [some_view(g, 4, 8), some_view(g, 4, 8)]
    maps = torch.zeros(1, 4, 2, 2)
    maps[0, 1, 0, 0] = maps[0, 2, 0, 1] = maps[0, 3, 1, 0] = maps[0, 0, 1, 1] = 1.0
    regions = segment(maps, torch.ones(1, 2, 2, dtype=torch.bool), [[1, 2], [2, 3]], 0.9, cut=False)
    kv = [as_concept([view]) for view in views]
    out = rba(regions.concepts.flatten(1), CPU)(TorchAttend(2), q, k, v, kv)
    expected = oracle.inject(q[0], k[0], v[0], [[view] for view in views], [[0], [1], [1], []], 2)
    assert_close(out[0], expected, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 2**32), images=st.integers(1, 2), n=st.integers(1, 9), concepts=st.integers(1, 3))
def test_seen_from_parts_of_the_picture_and_fading_equals_the_loops(
    seed: int, images: int, n: int, concepts: int
) -> None:
    """Each query attends to the concepts that are visible to it; its output is mixed with ordinary attention."""
    g = generator_of(seed)
    q, k, v = (normal(g, images, n, 8) for _ in range(3))
    views = [[some_view(g, 4, 8)] for _ in range(concepts)]
    visible = torch.rand(concepts, images, n, generator=g) < 0.5
    shares = torch.rand(images, n, generator=g).mul(1.5).clamp(max=1)
    rule = restricted(visible, shares, CPU)
    found = rule(TorchAttend(2), q, k, v, [as_concept(each) for each in views])
    for image in range(images):
        for query in range(n):
            row = slice(query, query + 1)
            seen = [each for index, each in enumerate(views) if visible[index, image, query]]
            own = oracle.with_references(q[image, row], k[image], v[image], [], 2, None, n)
            with_seen = oracle.with_references(q[image, row], k[image], v[image], seen, 2, None, n)
            expected = own + shares[image, query] * (with_seen - own)
            assert_close(found[image, row], expected, rtol=1e-5, atol=1e-5)


def test_without_fading_nothing_is_mixed() -> None:
    assert fading(None, CPU) is None and fading(torch.ones(2, 3), CPU) is None
    fade = fading(torch.tensor([[1.0, 0.5, 0.0]]), CPU)
    assert fade is not None and [tokens.tolist() for tokens in fade.tokens] == [[1, 2]]
