"""Reference-aware self-attention against its dense form."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.attention.attend import TorchAttend
from magicface.attention.kv import ConceptTokens, pool
from magicface.attention.rsa import reference_aware_self_attention
from naive import View
from scenes import as_concept, generator_of, normal, some_view
from torch import Tensor
from torch.testing import assert_close

sizes_of_views = st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=3), min_size=1, max_size=3)


@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 2),
    heads=st.integers(1, 3),
    n=st.integers(1, 8),
    sizes=sizes_of_views,
    given_own=st.booleans(),
)
def test_equals_the_dense_form(
    seed: int, images: int, heads: int, n: int, sizes: list[list[int]], given_own: bool
) -> None:
    """Any number of concepts and views, fractional masks, weights, and grids unlike the target's."""
    g = generator_of(seed)
    q, k, v, own = (normal(g, images, n, 4 * heads) for _ in range(4))
    concepts = [[some_view(g, size, 4 * heads) for size in views] for views in sizes]
    found = reference_aware_self_attention(
        TorchAttend(heads), q, k, v, [as_concept(views) for views in concepts], own if given_own else None
    )
    for image in range(images):
        expected = naive.with_references(
            q[image], k[image], v[image], concepts, heads, own[image] if given_own else None
        )
        assert_close(found[image], expected, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 2**32), n=st.integers(1, 6))
def test_own_path_with_ordinary_attention_is_the_ordinary_path(seed: int, n: int) -> None:
    g = generator_of(seed)
    q, k, v = (normal(g, 2, n, 8) for _ in range(3))
    concepts = [as_concept([some_view(g, 5, 8)]), None, as_concept([some_view(g, 3, 8), some_view(g, 3, 8)])]
    attend = TorchAttend(2)
    ordinary = reference_aware_self_attention(attend, q, k, v, concepts)
    assert_close(reference_aware_self_attention(attend, q, k, v, concepts, attend(q, k, v)), ordinary)


def test_absent_concepts_take_no_part() -> None:
    g = generator_of(1)
    q, k, v, own = (normal(g, 2, 5, 8) for _ in range(4))
    view = some_view(g, 4, 8)
    attend = TorchAttend(2)
    among_absent = reference_aware_self_attention(attend, q, k, v, [None, as_concept([view]), None])
    assert torch.equal(among_absent, reference_aware_self_attention(attend, q, k, v, [as_concept([view])]))
    assert not torch.allclose(among_absent, attend(q, k, v))
    for nobody in ([], [None], [None, None]):
        assert torch.equal(reference_aware_self_attention(attend, q, k, v, nobody), attend(q, k, v))
        assert torch.equal(reference_aware_self_attention(attend, q, k, v, nobody, own), own)


def test_more_own_keys_than_queries() -> None:
    """Keys that another pack adds are own keys; a weight is still measured against the queries."""
    g = generator_of(2)
    q, k, v = normal(g, 1, 4, 8), normal(g, 1, 7, 8), normal(g, 1, 7, 8)
    view = some_view(g, 6, 8)
    found = reference_aware_self_attention(TorchAttend(2), q, k, v, [as_concept([view])])
    assert_close(found[0], naive.with_references(q[0], k[0], v[0], [[view]], 2), rtol=1e-6, atol=1e-6)


def flat(view_sizes: list[int], fraction: float, weight: float, value: float) -> ConceptTokens | None:
    """A concept whose tokens all look alike, the same fraction of each inside the mask."""
    return as_concept(
        [
            View(torch.zeros(size, 4), torch.full((size, 4), value), torch.full((size,), fraction), weight)
            for size in view_sizes
        ]
    )


@pytest.mark.parametrize("view_sizes", [[6], [2], [24], [6, 6], [3, 9, 30]])
@pytest.mark.parametrize(("weight", "fraction"), [(3.0, 1.0), (1.2, 0.25), (-0.5, 1.0)])
def test_a_weight_means_the_same_for_all_sizes_and_numbers_of_views(
    view_sizes: list[int], weight: float, fraction: float
) -> None:
    """A concept outweighs the target m e^w times, which for tokens that all look alike can be told by hand."""
    q, k, v = (torch.zeros(1, 6, 4, dtype=torch.float64) for _ in range(3))
    out = reference_aware_self_attention(TorchAttend(2), q, k, v, [flat(view_sizes, fraction, weight, 1.0)])
    counts = fraction * math.exp(weight)
    assert_close(out, torch.full_like(out, counts / (1 + counts)), rtol=1e-6, atol=0)


def test_a_view_shown_twice_changes_nothing() -> None:
    g = generator_of(3)
    q, k, v = (normal(g, 1, 5, 8) for _ in range(3))
    view = some_view(g, 4, 8)
    once = reference_aware_self_attention(TorchAttend(2), q, k, v, [as_concept([view])])
    assert_close(reference_aware_self_attention(TorchAttend(2), q, k, v, [as_concept([view, view])]), once)


def test_a_view_outside_its_mask_still_counts_as_area() -> None:
    g = generator_of(4)
    q, k, v = (normal(g, 1, 5, 8) for _ in range(3))
    seen = some_view(g, 4, 8)
    unseen = View(normal(g, 6, 8), normal(g, 6, 8), torch.zeros(6), 2.0)
    concept = as_concept([seen, unseen])
    assert concept is not None and concept.grid_tok == 10
    found = reference_aware_self_attention(TorchAttend(2), q, k, v, [concept])
    assert_close(found[0], naive.with_references(q[0], k[0], v[0], [[seen, unseen]], 2), rtol=1e-6, atol=1e-6)


def tokens_of(*values: float) -> ConceptTokens:
    """One token a value."""
    line = torch.tensor(values)
    return ConceptTokens(line[None, :, None], -line[None, :, None], 10 * line, (line.long(),), ((2, 2),))


def test_pool_joins_views_in_order() -> None:
    pooled = pool([tokens_of(1, 2), tokens_of(), tokens_of(3)])
    assert pooled is not None

    def line(x: Tensor) -> list[float]:
        return x.flatten().tolist()

    assert (line(pooled.k), line(pooled.v), line(pooled.bias)) == ([1, 2, 3], [-1, -2, -3], [10, 20, 30])
    assert pooled.grid_tok == 12
    assert [places.tolist() for places in pooled.places] == [[1, 2], [], [3]] and pooled.grids == ((2, 2),) * 3
    assert pool([tokens_of(), tokens_of()]) is None
    assert pool([]) is None


def test_bias_is_corrected_for_sizes_in_the_wanted_dtype() -> None:
    bias = tokens_of(1, 2).bias_for(16, torch.float16)
    assert bias.dtype is torch.float16
    assert_close(bias.double(), torch.tensor([10.0, 20.0]).double() + math.log(4), rtol=1e-3, atol=0)
    assert torch.equal(tokens_of(1, 2).bias_for(4, torch.float32), torch.tensor([10.0, 20.0]))
