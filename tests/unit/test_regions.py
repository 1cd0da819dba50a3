"""Regions on other grids, and queries grouped by region."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.attention.regions import group_queries, half_grid, resize_nearest
from oracle.images import nearest
from scenes import generator_of

CPU = torch.device("cpu")
# torch computes source positions in single precision, which is inexact for 22 pixels or more.
small = st.tuples(st.integers(1, 21), st.integers(1, 21))


@pytest.mark.parametrize("side", [1, 2, 3, 63, 64, 65, 90, 128])
def test_the_half_grid_is_that_of_a_strided_convolution(side: int) -> None:
    picture = torch.zeros(1, 1, side, 4)
    left = torch.nn.functional.conv2d(picture, torch.zeros(1, 1, 3, 3), stride=2, padding=1)
    assert half_grid((side, 4)) == half_grid((1, 4, side, 4)) == tuple(left.shape[-2:])
    assert half_grid((4, side)) == (2, (side + 1) // 2)


@given(seed=st.integers(0, 2**32), given_size=small, wanted=small)
def test_labels_are_resized_by_nearest_neighbour(
    seed: int, given_size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    g = generator_of(seed)
    labels = torch.randint(-1, 300, (2, *given_size), generator=g)
    marks = labels % 2 == 0
    found, found_marks = resize_nearest(labels, wanted), resize_nearest(marks, wanted)
    assert found.dtype is torch.int64 and found_marks.dtype is torch.bool
    for image in range(2):
        assert torch.equal(found[image], nearest(labels[image], wanted))
        assert torch.equal(found_marks[image], nearest(marks[image], wanted))
    assert torch.equal(resize_nearest(labels, given_size), labels)


@given(seed=st.integers(0, 2**32), images=st.integers(1, 3), n=st.integers(1, 441), count=st.integers(0, 4))
def test_groups_name_each_query_once_under_its_own_label(seed: int, images: int, n: int, count: int) -> None:
    labels = torch.randint(-1, count, (images, n), generator=generator_of(seed))
    groups = group_queries(labels, CPU)
    assert len(groups) == images
    for image, regions in enumerate(groups):
        assert len({label for label, _ in regions}) == len(regions)
        assert all(len(queries) > 0 for _, queries in regions)
        named = sorted(query for _, queries in regions for query in queries.tolist())
        assert named == list(range(n))
        for label, queries in regions:
            assert isinstance(label, int) and (labels[image, queries] == label).all()


def test_groups_of_known_labels() -> None:
    labels = torch.tensor([[0, 0, 1, 1, -1, -1, 1, 1], [2] * 8])
    groups = [{label: queries.tolist() for label, queries in image} for image in group_queries(labels, CPU)]
    assert groups == [{0: [0, 1], 1: [2, 3, 6, 7], -1: [4, 5]}, {2: list(range(8))}]


def test_resizing_known_labels() -> None:
    labels = torch.tensor([[[0, 1], [-1, 1]], [[2, 2], [2, 2]]])
    assert resize_nearest(labels, (2, 4)).tolist() == [[[0, 0, 1, 1], [-1, -1, 1, 1]], [[2] * 4] * 2]
    assert resize_nearest(labels, (1, 2)).tolist() == [[[0, 1]], [[2, 2]]]
