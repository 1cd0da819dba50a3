"""Masks on token grids, their weights, growing, shrinking and feathering."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.attention.attend import TorchAttend
from magicface.attention.masks import TokenMask, reference_bias, token_mask
from magicface.attention.trimming import feather, grow
from oracle import attention as oracle
from oracle import images
from scenes import generator_of, normal, some_mask, some_view
from torch import Tensor
from torch.testing import assert_close

sizes = st.tuples(st.integers(1, 16), st.integers(1, 16))
radii = st.integers(-4, 4)


def some_picture(seed: int, size: tuple[int, int]) -> Tensor:
    """Two soft masks (2, H, W)."""
    return torch.rand(2, *size, generator=generator_of(seed), dtype=torch.float64)


def on_grid(mask: TokenMask) -> Tensor:
    """The mask (hh, ww), 0 at tokens that are left out."""
    values = torch.zeros(mask.grid[0] * mask.grid[1])
    values[mask.indices] = mask.log_mask.exp()
    return values.view(mask.grid)


@given(seed=st.integers(0, 2**32), size_px=sizes, grid=sizes)
def test_masks_are_resized_by_nearest_or_by_area(seed: int, size_px: tuple[int, int], grid: tuple[int, int]) -> None:
    mask = torch.rand(size_px, generator=generator_of(seed)) + 1e-3
    nearest, area = token_mask(mask, grid, "nearest"), token_mask(mask, grid, "area")
    for found, expected in ((nearest, images.nearest(mask, grid)), (area, images.area(mask, grid))):
        assert found.grid == grid and found.indices.tolist() == list(range(grid[0] * grid[1]))
        assert_close(on_grid(found).double(), expected.double().clamp(max=1), rtol=1e-5, atol=1e-6)


def test_thin_masks_vanish_by_nearest_but_not_by_area() -> None:
    mask = torch.zeros(8, 8)
    mask[:, 3] = 1.0
    assert on_grid(token_mask(mask, (2, 2), "nearest")).tolist() == [[0, 0], [0, 0]]
    assert on_grid(token_mask(mask, (2, 2), "area")).tolist() == [[0.25, 0], [0.25, 0]]


def test_masks_on_a_grid_are_single_precision_in_0_to_1() -> None:
    mask = torch.tensor([[-0.5, 0.5], [1.5, 1.0]], dtype=torch.float16)
    for resize in ("nearest", "area"):
        found = token_mask(mask, (2, 2), resize)
        assert found.log_mask.dtype is torch.float32 and on_grid(found).tolist() == [[0.0, 0.5], [1.0, 1.0]]


def row_mask(*values: float) -> TokenMask:
    """A mask on a grid one token high."""
    return token_mask(torch.tensor([values]), (1, len(values)), "nearest")


def test_tokens_inside_a_mask_and_their_bias_by_hand() -> None:
    mask = row_mask(0.0, 1.0, 0.0, 0.5)
    assert mask.indices.dtype is torch.int64 and mask.indices.tolist() == [1, 3]
    bias = reference_bias([mask], [3.0], 4)
    assert bias.dtype is torch.float32
    assert_close(bias, torch.tensor([3.0, 3.0 + math.log(0.5)]))
    empty = row_mask(0.0, 0.0, 0.0, 0.0)
    assert empty.indices.numel() == reference_bias([empty], [3.0], 4).numel() == 0


@given(seed=st.integers(0, 2**32), n=st.integers(1, 5), m=st.integers(1, 8), weight=st.floats(-2, 5))
def test_dropping_keys_is_a_bias_of_minus_infinity(seed: int, n: int, m: int, weight: float) -> None:
    g = generator_of(seed)
    q, k, v, mask = normal(g, 1, n, 8), normal(g, 1, m, 8), normal(g, 1, m, 8), some_mask(g, m)
    inside = token_mask(mask[None], (1, m), "nearest")
    bias = reference_bias([inside], [weight], m)
    found = TorchAttend(2)(q, k[:, inside.indices], v[:, inside.indices], bias)
    full = torch.tensor([weight + math.log(x) if x > 0 else -math.inf for x in mask.tolist()]).double()
    expected = oracle.apply_maps(oracle.attention_maps(q[0], k[0], 2, full), v[0])
    assert_close(found[0], expected, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3), target=st.integers(1, 99))
def test_bias_of_several_views_is_that_of_the_loops(seed: int, sizes: list[int], target: int) -> None:
    g = generator_of(seed)
    views = [some_view(g, size, 4) for size in sizes]
    masks = [token_mask(view.mask[None], (1, len(view.mask)), "nearest") for view in views]
    expected = oracle.bias_of(views, target)
    found = reference_bias(masks, [view.weight for view in views], target)
    assert_close(found.double(), expected[~torch.isinf(expected)], rtol=1e-5, atol=1e-5)


def test_the_bias_is_less_by_the_logarithm_of_the_ratio_of_token_counts() -> None:
    def correction(target_tok: int, *grids: tuple[int, int]) -> float:
        masks = [token_mask(torch.ones(grid), grid, "nearest") for grid in grids]
        biases = reference_bias(masks, [2.0] * len(grids), target_tok)
        assert len(biases) == sum(height * width for height, width in grids) and biases.unique().numel() == 1
        return 2.0 - float(biases[0])

    assert correction(4096, (64, 64)) == 0.0
    assert correction(1024, (64, 64), (64, 64)) == pytest.approx(math.log(8), rel=1e-5)
    assert correction(1024, (32, 16)) == pytest.approx(-math.log(2), rel=1e-5)


@given(seed=st.integers(0, 2**32), size=sizes, radius=radii)
def test_growing_takes_the_highest_neighbour_and_shrinking_the_lowest(
    seed: int, size: tuple[int, int], radius: int
) -> None:
    mask = some_picture(seed, size)
    found, reach, best = grow(mask, radius), abs(radius), max if radius > 0 else min
    for y in range(size[0]):
        for x in range(size[1]):
            near = mask[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].flatten(1)
            assert found[:, y, x].tolist() == [best(image) for image in near.tolist()]


@given(seed=st.integers(0, 2**32), size=sizes, radius=radii)
def test_growing_then_shrinking_is_idempotent(seed: int, size: tuple[int, int], radius: int) -> None:
    mask = some_picture(seed, size)
    there_and_back = grow(grow(mask, radius), -radius)
    assert torch.equal(grow(grow(there_and_back, radius), -radius), there_and_back)
    assert torch.equal(1 - grow(1 - mask, radius), grow(mask, -radius))
    assert torch.equal(grow(mask, 0), mask) and torch.equal(feather(mask, 0), mask)


@given(seed=st.integers(0, 2**32), size=sizes, radius=st.integers(1, 4))
def test_feathering_is_two_means_over_pixels_inside_the_picture(seed: int, size: tuple[int, int], radius: int) -> None:
    mask = some_picture(seed, size)
    expected = mask
    for _ in range(2):
        given_mask, expected = expected, torch.zeros_like(mask)
        for y in range(size[0]):
            for x in range(size[1]):
                near = given_mask[:, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
                expected[:, y, x] = near.flatten(1).mean(dim=1)
    assert_close(feather(mask, radius), expected)


@given(size=sizes, radius=st.integers(0, 6))
def test_whole_and_empty_masks_do_not_change(size: tuple[int, int], radius: int) -> None:
    for value in (0.0, 1.0):
        mask = torch.full((1, *size), value)
        assert torch.equal(grow(mask, radius), mask) and torch.equal(grow(mask, -radius), mask)
        assert_close(feather(mask, radius), mask)
        assert float(feather(mask, radius).max()) <= 1.0


def test_trimming_a_mask_by_hand() -> None:
    mask = torch.zeros(1, 5, 5)
    mask[0, 2, 2] = 1.0
    assert grow(mask, 1)[0].sum() == 9 and grow(mask, 1)[0, 1:4, 1:4].min() == 1
    assert grow(mask, -1).sum() == 0
    # (1 2 3 2 1) / 9 times a third, except at the border, where a mean is over two pixels instead of three
    assert feather(mask, 1)[0, 2].tolist() == pytest.approx([1 / 18, 2 / 27, 1 / 9, 2 / 27, 1 / 18])
