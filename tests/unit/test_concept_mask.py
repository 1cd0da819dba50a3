"""A concept's mask from attention maps: the relative map, the blocks, the average."""

from __future__ import annotations

import pytest
import torch
from magicface.attention.blocks import Block, concept_mask_blocks
from magicface.attention.concept_map import above, relative_map
from magicface.attention.segmentation import MapAverage, upsample
from scenes import generator_of
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
