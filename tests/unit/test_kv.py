"""Keys and values of references: views are joined to concepts, and a weight means the same for all sizes."""

from __future__ import annotations

import math

import pytest
import torch
from magicface.attention.attend import TorchAttend
from magicface.attention.injection import RSA
from magicface.attention.kv import ConceptKV, ViewKV, pool, select
from magicface.attention.masks import TokenMask
from oracle import attention as oracle
from oracle.attention import View
from scenes import as_concept, generator_of, normal, some_view
from torch import Tensor
from torch.testing import assert_close


def flat(view_sizes: list[int], fraction: float, weight: float, value: float) -> ConceptKV | None:
    """A concept whose tokens are all equal, each with the same fraction inside the mask."""
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
    """A concept outweighs the target by m e^w; for equal tokens this can be computed by hand."""
    q, k, v = (torch.zeros(1, 6, 4, dtype=torch.float64) for _ in range(3))
    out = RSA(TorchAttend(2), q, k, v, [flat(view_sizes, fraction, weight, 1.0)])
    counts = fraction * math.exp(weight)
    assert_close(out, torch.full_like(out, counts / (1 + counts)), rtol=1e-6, atol=0)


def test_the_same_view_twice_changes_nothing() -> None:
    g = generator_of(3)
    q, k, v = (normal(g, 1, 5, 8) for _ in range(3))
    view = some_view(g, 4, 8)
    once = RSA(TorchAttend(2), q, k, v, [as_concept([view])])
    assert_close(RSA(TorchAttend(2), q, k, v, [as_concept([view, view])]), once)


def test_tokens_outside_the_mask_count_as_area() -> None:
    g = generator_of(4)
    q, k, v = (normal(g, 1, 5, 8) for _ in range(3))
    seen = some_view(g, 4, 8)
    unseen = View(normal(g, 6, 8), normal(g, 6, 8), torch.zeros(6), 2.0)
    concept = as_concept([seen, unseen])
    assert concept is not None and [mask.grid for mask in concept.masks] == [(1, 4), (1, 6)]
    found = RSA(TorchAttend(2), q, k, v, [concept])
    assert_close(found[0], oracle.with_references(q[0], k[0], v[0], [[seen, unseen]], 2), rtol=1e-6, atol=1e-6)


def tokens_of(*values: float, weight: float = 0.0) -> tuple[ViewKV, TokenMask, float]:
    """A view of one token for each value, on a grid of four."""
    line = torch.tensor(values)
    mask = TokenMask(line.long(), 10 * line, (2, 2))
    return ViewKV(line[None, :, None], -line[None, :, None], (2, 2)), mask, weight


def line(x: Tensor) -> list[float]:
    return x.flatten().tolist()


def test_pool_joins_views_in_order() -> None:
    pooled = pool([tokens_of(1, 2, weight=3), tokens_of(), tokens_of(3, weight=5)])
    assert pooled is not None
    assert (line(pooled.k), line(pooled.v), pooled.weights) == ([1, 2, 3], [-1, -2, -3], (3, 0, 5))
    assert [mask.indices.tolist() for mask in pooled.masks] == [[1, 2], [], [3]]
    assert [mask.grid for mask in pooled.masks] == [(2, 2)] * 3
    assert pool([tokens_of(), tokens_of()]) is None
    assert pool([]) is None


def test_select_joins_concepts_in_order_each_with_its_own_bias() -> None:
    one, two = pool([tokens_of(1, 2)]), pool([tokens_of(0, weight=7), tokens_of(3)])
    chosen = select([one, None, two], [2, 1, 0], 16)
    assert chosen is not None
    k, v, bias = chosen
    assert (line(k), line(v)) == ([0, 3, 1, 2], [0, -3, -1, -2])
    assert bias.dtype is torch.float32
    corrected = [7 - math.log(8 / 16), 30 - math.log(8 / 16), 10 + math.log(4), 20 + math.log(4)]
    assert line(bias) == pytest.approx(corrected)
    assert select([one, None, two], [1], 16) is None and select([], [], 16) is None


def test_the_bias_has_no_correction_for_equal_token_counts() -> None:
    chosen = select([pool([tokens_of(1, 2)])], [0], 4)
    assert chosen is not None and torch.equal(chosen[2], torch.tensor([10.0, 20.0]))
