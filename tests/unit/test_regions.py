"""Regions on other grids, and queries grouped by them."""

from __future__ import annotations

import naive_images
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.attention.regions import carry, group_queries, half_grid
from scenes import generator_of

CPU = torch.device("cpu")
# torch reckons places in single precision, which is not exact from 22 pixels on.
small = st.tuples(st.integers(1, 21), st.integers(1, 21))


@pytest.mark.parametrize("side", [1, 2, 3, 63, 64, 65, 90, 128])
def test_half_grid_is_what_a_strided_convolution_leaves(side: int) -> None:
    picture = torch.zeros(1, 1, side, 4)
    left = torch.nn.functional.conv2d(picture, torch.zeros(1, 1, 3, 3), stride=2, padding=1)
    assert half_grid((side, 4)) == half_grid((1, 4, side, 4)) == tuple(left.shape[-2:])
    assert half_grid((4, side)) == (2, (side + 1) // 2)


@given(seed=st.integers(0, 2**32), given_size=small, wanted=small)
def test_labels_are_carried_by_nearest_neighbour(
    seed: int, given_size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    g = generator_of(seed)
    labels = torch.randint(-1, 300, (2, *given_size), generator=g)
    marks = labels % 2 == 0
    found, found_marks = carry(labels, wanted), carry(marks, wanted)
    assert found.dtype is torch.int64 and found_marks.dtype is torch.bool
    for image in range(2):
        assert torch.equal(found[image], naive_images.nearest(labels[image], wanted))
        assert torch.equal(found_marks[image], naive_images.nearest(marks[image], wanted))
    assert torch.equal(carry(labels, given_size), labels)


@given(seed=st.integers(0, 2**32), images=st.integers(1, 3), size=small, grid=small, count=st.integers(0, 4))
def test_groups_name_each_query_once_under_its_own_label(
    seed: int, images: int, size: tuple[int, int], grid: tuple[int, int], count: int
) -> None:
    g = generator_of(seed)
    labels = torch.randint(-1, count, (images, *size), generator=g)
    groups = group_queries(labels, grid, CPU)
    assert len(groups) == images
    for image, regions in enumerate(groups):
        carried = naive_images.nearest(labels[image], grid).flatten()
        assert len({label for label, _ in regions}) == len(regions)
        assert all(len(queries) > 0 for _, queries in regions)
        named = sorted(query for _, queries in regions for query in queries.tolist())
        assert named == list(range(grid[0] * grid[1]))
        for label, queries in regions:
            assert isinstance(label, int) and (carried[queries] == label).all()


def test_groups_of_a_known_picture() -> None:
    labels = torch.tensor([[[0, 1], [-1, 1]], [[2, 2], [2, 2]]])
    groups = [{label: queries.tolist() for label, queries in image} for image in group_queries(labels, (2, 4), CPU)]
    assert groups == [{0: [0, 1], 1: [2, 3, 6, 7], -1: [4, 5]}, {2: list(range(8))}]
    groups = [{label: queries.tolist() for label, queries in image} for image in group_queries(labels, (1, 2), CPU)]
    assert groups == [{0: [0], 1: [1]}, {2: [0, 1]}]
