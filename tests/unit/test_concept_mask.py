"""A concept's mask from attention maps: the guided filter by loops over pixels, the relative map, the blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from magicface.attention.blocks import Block, concept_mask_blocks
from magicface.attention.concept_map import above, relative_map
from magicface.attention.edges import EPS, box_mean, guided_filter
from magicface.attention.segmentation import MapAverage, upsample
from scenes import generator_of
from torch import Tensor
from torch.testing import assert_close

DEEP = [
    *(Block("input", number, depth, 2) for number in (4, 5) for depth in (0, 1)),
    *(Block("input", number, depth, 4) for number in (7, 8) for depth in range(3)),
    *(Block("middle", 0, depth, 4) for depth in range(3)),
    *(Block("output", number, depth, 4) for number in (0, 1, 2) for depth in range(3)),
    *(Block("output", number, depth, 2) for number in (3, 4, 5) for depth in (0, 1)),
]
FLAT = [
    *(Block("input", number, 0, ratio) for number, ratio in ((1, 1), (2, 1), (4, 2), (5, 2), (7, 4), (8, 4))),
    Block("middle", 0, 0, 8),
    *(Block("output", number, 0, ratio) for number, ratio in ((3, 4), (5, 4), (6, 2), (7, 2), (9, 1), (11, 1))),
]


def neighbourhood(x: Tensor, row: int, column: int, radius: int) -> Tensor:
    """(c, n) the pixels of a map (c, H, W) in the square around a pixel."""
    top, left = max(0, row - radius), max(0, column - radius)
    return x[:, top : row + radius + 1, left : column + radius + 1].flatten(1)


def filtered_by_loops(picture: Tensor, target: Tensor, radius: int) -> Tensor:
    """(H, W) the guided filter of one map (H, W) with a picture (3, H, W), in float64."""
    height, width = target.shape
    picture, target = picture.double(), target.double()
    fits = torch.zeros(4, height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            colours = neighbourhood(picture, row, column, radius)
            values = neighbourhood(target[None], row, column, radius)[0]
            centred = colours - colours.mean(dim=1, keepdim=True)
            covariance = centred @ centred.T / centred.shape[1] + EPS * torch.eye(3, dtype=torch.float64)
            slope = torch.linalg.inv(covariance) @ (centred @ (values - values.mean()) / len(values))
            fits[:3, row, column] = slope
            fits[3, row, column] = values.mean() - slope @ colours.mean(dim=1)
    out = torch.zeros_like(target)
    for row in range(height):
        for column in range(width):
            mean = neighbourhood(fits, row, column, radius).mean(dim=1)
            out[row, column] = mean[:3] @ picture[:, row, column] + mean[3]
    return out


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    radius=st.integers(1, 8),
    maps=st.integers(1, 2),
)
def test_the_guided_filter_equals_the_loops(seed: int, size: tuple[int, int], radius: int, maps: int) -> None:
    g = generator_of(seed)
    picture, targets = torch.rand(2, 3, *size, generator=g), torch.rand(2, maps, *size, generator=g)
    found = guided_filter(picture, targets, radius)
    assert found.shape == targets.shape and found.dtype is torch.float32
    for image in range(2):
        for number in range(maps):
            expected = filtered_by_loops(picture[image], targets[image, number], radius)
            assert_close(found[image, number].double(), expected, rtol=0, atol=2e-3)


def test_box_means_at_borders_are_of_what_lies_inside() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert_close(box_mean(x, 1)[0, 0, 0, 0], x[0, 0, :2, :2].mean())
    assert_close(box_mean(x, 9), torch.full_like(x, 5.5))


def test_a_coarse_map_takes_the_edge_of_the_picture() -> None:
    """Left half red, right half blue; the map says so with an edge that is two pixels off and blurred."""
    picture = torch.zeros(1, 3, 32, 32)
    picture[:, 0, :, :14], picture[:, 2, :, 14:] = 1.0, 1.0
    coarse = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(1, 1, 4, 4)
    mask = above(guided_filter(picture, coarse, 12), 0.5)
    assert_close(mask[0], (torch.arange(32) < 14).float().expand(32, 32))
    plain = above(guided_filter(picture, coarse, 0), 0.5)
    assert_close(plain[0], (torch.arange(32) < 16).float().expand(32, 32))


def test_a_working_size_of_the_pictures_own_changes_nothing() -> None:
    g = generator_of(1)
    picture, maps = torch.rand(1, 3, 20, 24, generator=g), torch.rand(1, 1, 5, 6, generator=g)
    assert torch.equal(guided_filter(picture, maps, 3), guided_filter(picture, maps, 3, (20, 24)))
    assert guided_filter(picture, maps, 3, (40, 48)).shape == (1, 1, 20, 24)


def test_a_relative_map_has_the_strongest_word_and_a_maximum_of_one() -> None:
    maps = torch.tensor([[[[1.0, 4.0]], [[2.0, 0.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])
    assert_close(relative_map(maps), torch.tensor([[[[0.5, 1.0]]], [[[0.0, 0.0]]]]))
    assert_close(above(relative_map(maps), 0.5), torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]]))


@pytest.mark.parametrize(
    ("layout", "expected"),
    [(DEEP, ["input.5.1", "output.3.1"]), (FLAT, ["input.5.0", "output.6.0"])],
    ids=["SDXL", "SD 1.x"],
)
def test_the_default_blocks_are_nearest_to_the_middle(layout: list[Block], expected: list[str]) -> None:
    assert [str(block) for block in concept_mask_blocks("auto", layout)] == expected


def test_blocks_can_be_chosen() -> None:
    assert [str(block) for block in concept_mask_blocks("middle, output.7", FLAT)] == ["middle.0.0", "output.7.0"]
    with pytest.raises(ValueError, match="only blocks at the latent's own size"):
        concept_mask_blocks("output.9", FLAT)
    with pytest.raises(ValueError, match="no block 'nowhere'"):
        concept_mask_blocks("nowhere", FLAT)


def test_an_average_without_blur_is_of_maps_over_their_means() -> None:
    g = generator_of(2)
    average = MapAverage((4, 6), upsample)
    fine, coarse = torch.rand(2, 24, 3, generator=g), torch.rand(2, 6, 3, generator=g)
    average.add_maps(fine, (4, 6))
    average.add_maps(coarse, (2, 3))
    resized = upsample(coarse.movedim(1, -1).reshape(2, 3, 2, 3), (4, 6))
    each = [fine.movedim(1, -1).reshape(2, 3, 4, 6), resized]
    expected = sum(maps / maps.mean(dim=(2, 3), keepdim=True) for maps in each) / 2
    assert_close(average.averaged(), expected)
