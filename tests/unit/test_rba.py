"""Region-grouped blend attention against its form query by query."""

from __future__ import annotations

import naive
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.attention.attend import TorchAttend
from magicface.attention.rba import region_grouped_blend_attention
from magicface.attention.regions import Regions, group_queries
from magicface.attention.rsa import reference_aware_self_attention
from magicface.attention.segmentation import segment
from scenes import as_concept, generator_of, normal, some_view
from torch import Tensor
from torch.testing import assert_close

CPU = torch.device("cpu")


def groups_of(labels: Tensor, grid: tuple[int, int]) -> list[list[tuple[int, Tensor]]]:
    """Query groups of maps (b, hh, ww) that stand on the block's grid already."""
    return group_queries(labels, grid, CPU)


@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 3),
    heads=st.integers(1, 2),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    view_sizes=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=2), min_size=1, max_size=3),
    given_own=st.booleans(),
)
def test_equals_the_form_query_by_query(
    seed: int, images: int, heads: int, grid: tuple[int, int], view_sizes: list[list[int]], given_own: bool
) -> None:
    """Images with regions of their own, pixels in no region, regions with no pixel."""
    g = generator_of(seed)
    n, channels = grid[0] * grid[1], 4 * heads
    q, k, v, own = (normal(g, images, n, channels) for _ in range(4))
    concepts = [[some_view(g, size, channels) for size in sizes] for sizes in view_sizes]
    labels = torch.randint(-1, len(concepts), (images, *grid), generator=g)
    found = region_grouped_blend_attention(
        TorchAttend(heads),
        q,
        k,
        v,
        [as_concept(views) for views in concepts],
        groups_of(labels, grid),
        own if given_own else None,
    )
    for image in range(images):
        expected = naive.rba(
            q[image],
            k[image],
            v[image],
            concepts,
            labels[image].flatten().tolist(),
            heads,
            own[image] if given_own else None,
        )
        assert_close(found[image], expected, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 2**32), n=st.integers(2, 9))
def test_own_path_with_ordinary_attention_is_the_ordinary_path(seed: int, n: int) -> None:
    g = generator_of(seed)
    q, k, v = (normal(g, 2, n, 8) for _ in range(3))
    concepts = [as_concept([some_view(g, 5, 8)]), None, as_concept([some_view(g, 3, 8)])]
    groups = groups_of(torch.randint(-1, 3, (2, 1, n), generator=g), (1, n))
    attend = TorchAttend(2)
    ordinary = region_grouped_blend_attention(attend, q, k, v, concepts, groups)
    assert_close(region_grouped_blend_attention(attend, q, k, v, concepts, groups, attend(q, k, v)), ordinary)


def test_pixels_in_no_region_and_regions_of_absent_concepts_look_at_themselves_only() -> None:
    g = generator_of(1)
    q, k, v, own = (normal(g, 1, 6, 8) for _ in range(4))
    view = some_view(g, 4, 8)
    concepts = [as_concept([view]), None]
    labels = torch.tensor([[[0, -1, 1, 0, 1, -1]]])
    attend = TorchAttend(2)
    plain, seen = attend(q, k, v), reference_aware_self_attention(attend, q, k, v, [concepts[0]])
    out = region_grouped_blend_attention(attend, q, k, v, concepts, groups_of(labels, (1, 6)))
    assert_close(out[0, [1, 2, 4, 5]], plain[0, [1, 2, 4, 5]])
    assert_close(out[0, [0, 3]], seen[0, [0, 3]])
    assert not torch.allclose(seen, plain)
    out = region_grouped_blend_attention(attend, q, k, v, concepts, groups_of(labels, (1, 6)), own)
    assert torch.equal(out[0, [1, 2, 4, 5]], own[0, [1, 2, 4, 5]])
    expected = naive.rba(q[0], k[0], v[0], [[view], []], labels.flatten().tolist(), 2, own[0])
    assert_close(out[0], expected, rtol=1e-6, atol=1e-6)


def test_one_region_over_all_is_reference_aware_attention_with_that_concept() -> None:
    g = generator_of(2)
    q, k, v = (normal(g, 2, 6, 8) for _ in range(3))
    concepts = [as_concept([some_view(g, 4, 8)]), as_concept([some_view(g, 5, 8)])]
    groups = groups_of(torch.ones(2, 2, 3, dtype=torch.int64), (2, 3))
    out = region_grouped_blend_attention(TorchAttend(2), q, k, v, concepts, groups)
    assert_close(out, reference_aware_self_attention(TorchAttend(2), q, k, v, concepts[1:]))


def test_what_is_given_stays_as_it_is() -> None:
    g = generator_of(3)
    given_tensors = [normal(g, 1, 4, 8) for _ in range(4)]
    before = [tensor.clone() for tensor in given_tensors]
    concepts = [as_concept([some_view(g, 4, 8)])]
    groups = groups_of(torch.tensor([[[0, 0, -1, -1]]]), (1, 4))
    region_grouped_blend_attention(TorchAttend(2), *given_tensors[:3], concepts, groups, given_tensors[3])
    assert all(torch.equal(one, other) for one, other in zip(given_tensors, before, strict=True))


def test_a_word_of_two_concepts_is_looked_up_in_the_later_one() -> None:
    """From overlapping phrases to the reference that a pixel sees."""
    g = generator_of(4)
    q, k, v = (normal(g, 1, 4, 8) for _ in range(3))
    views = [some_view(g, 4, 8), some_view(g, 4, 8)]
    maps = torch.zeros(1, 4, 2, 2)
    maps[0, 1, 0, 0] = maps[0, 2, 0, 1] = maps[0, 3, 1, 0] = maps[0, 0, 1, 1] = 1.0
    regions: Regions = segment(maps, torch.ones(1, 2, 2, dtype=torch.bool), [[1, 2], [2, 3]], 0.9, cut=False)
    groups = group_queries(regions.concepts, (2, 2), CPU)
    out = region_grouped_blend_attention(TorchAttend(2), q, k, v, [as_concept([view]) for view in views], groups)
    expected = naive.rba(q[0], k[0], v[0], [[view] for view in views], [0, 1, 1, -1], 2)
    assert_close(out[0], expected, rtol=1e-6, atol=1e-6)
