"""Semantic guidance compared with loops over labels and pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.attention.guidance import guidance_rate
from magicface.attention.regions import Regions
from oracle import regions as oracle
from scenes import generator_of, normal
from torch import Tensor
from torch.testing import assert_close


def some_regions(g: torch.Generator, images: int, size: tuple[int, int], count: int) -> Regions:
    """Random regions with pixels of no label."""
    labels = torch.randint(-1, count, (images, *size), generator=g)
    foreground = torch.rand(images, *size, generator=g) < 0.6
    return Regions(labels, labels, foreground, count)


def of_one(labels: Tensor, foreground: Tensor, count: int) -> Regions:
    """The regions of a single image."""
    return Regions(labels[None], labels[None], foreground[None], count)


@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 2),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size_lat=st.tuples(st.integers(2, 10), st.integers(2, 10)),
    count=st.integers(1, 4),
    cfg=st.sampled_from([0.5, 1.5, 4.0, 7.5, 12.0, 18.75, 30.0]),
    spread=st.sampled_from([0.2, 1.5]),
)
def test_the_rate_equals_the_loops(
    seed: int,
    images: int,
    size: tuple[int, int],
    size_lat: tuple[int, int],
    count: int,
    cfg: float,
    spread: float,
) -> None:
    """With all kinds of sizes, labels without pixels, pixels without labels, and rates that are clamped."""
    g = generator_of(seed)
    delta = normal(g, images, 4, *size_lat) * torch.exp(spread * normal(g, images, 1, *size_lat))
    regions = some_regions(g, images, size, count)
    found = guidance_rate(delta, regions, cfg)
    assert found.shape == (images, 1, *size_lat) and found.dtype is torch.float32
    for image in range(images):
        expected = oracle.guidance_rate(delta[image], regions.labels[image], regions.foreground[image], count, cfg)
        assert_close(found[image, 0].double(), expected, rtol=1e-5, atol=1e-6)


def two_halves(left: float, right: float, rows: int = 6) -> Tensor:
    """delta (1, 1, rows, 8) with a different magnitude in each half."""
    line = torch.tensor([left] * 4 + [right] * 4)
    return line.expand(1, 1, rows, 8)


HALVES = torch.tensor([[0, 1], [0, 1]])
EVERYWHERE = torch.ones(2, 2, dtype=torch.bool)


def ends(rate: Tensor) -> list[float]:
    """The rate at the left and right borders, which the blur between the halves does not reach."""
    return [float(rate[0, 0, 3, 0]), float(rate[0, 0, 3, 7])]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (2.0, 2.0, [1.0, 1.0]),
        (1.0, 2.0, [1.5, 0.8]),  # means 1.5 / 1 and 1.5 / 2, which is raised to 0.8
        (0.1, 2.0, [3.0, 0.8]),  # 10.5 is lowered to 3
        (1.8, 2.0, [1.9 / 1.8, 1.9 / 2.0]),
    ],
)
def test_the_rate_of_a_region_is_relative_to_the_foreground(left: float, right: float, expected: list[float]) -> None:
    regions = of_one(HALVES, EVERYWHERE, 2)
    rate = guidance_rate(two_halves(left, right), regions, cfg=4.0)
    assert ends(rate) == pytest.approx(expected, rel=1e-5)
    assert_close(guidance_rate(1000.0 * two_halves(left, right), regions, cfg=4.0), rate, rtol=1e-4, atol=0)


def test_the_mean_is_over_the_foreground_only() -> None:
    left_only = torch.tensor([[True, False], [True, False]])
    rate = guidance_rate(two_halves(2.0, 1.0), of_one(HALVES, left_only, 2), cfg=4.0)
    assert ends(rate) == pytest.approx([1.0, 2.0], rel=1e-5)


def test_without_a_foreground_the_rate_is_the_lowest() -> None:
    rate = guidance_rate(two_halves(1.0, 2.0), of_one(HALVES, ~EVERYWHERE, 2), cfg=4.0)
    assert_close(rate, torch.full_like(rate, 0.8))


def test_pixels_without_a_label_have_the_lowest_rate() -> None:
    regions = of_one(torch.tensor([[0, -1], [0, -1]]), EVERYWHERE, 2)
    rate = guidance_rate(two_halves(1.0, 3.0), regions, cfg=4.0)
    assert ends(rate) == pytest.approx([2.0, 0.8], rel=1e-5)


@pytest.mark.parametrize(("cfg", "highest"), [(4.0, 3.0), (5.0, 3.0), (7.5, 2.0), (18.75, 0.8), (30.0, 0.5)])
def test_total_guidance_is_bounded(cfg: float, highest: float) -> None:
    """The bound 15 / cfg applies even below 0.8."""
    rate = guidance_rate(two_halves(0.1, 2.0), of_one(HALVES, EVERYWHERE, 2), cfg)
    assert ends(rate) == pytest.approx([highest, min(0.8, highest)], rel=1e-5)


@pytest.mark.parametrize("cfg", [0.0, -2.0])
def test_guidance_scales_of_zero_or_less_have_no_bound(cfg: float) -> None:
    rate = guidance_rate(two_halves(0.1, 2.0), of_one(HALVES, EVERYWHERE, 2), cfg)
    assert ends(rate) == pytest.approx([3.0, 0.8], rel=1e-5)


def test_a_delta_of_zero_gives_finite_rates() -> None:
    rate = guidance_rate(two_halves(0.0, 0.0), of_one(HALVES, EVERYWHERE, 2), cfg=7.5)
    assert_close(rate, torch.full_like(rate, 0.8))


def test_half_precision_is_summed_in_single_precision() -> None:
    """Sums of norms over thousands of pixels exceed float16's largest number."""
    delta = torch.full((1, 4, 64, 64), 500.0, dtype=torch.float16)
    rate = guidance_rate(delta, of_one(HALVES, EVERYWHERE, 2), cfg=4.0)
    assert rate.dtype is torch.float32
    assert_close(rate, torch.ones_like(rate))
