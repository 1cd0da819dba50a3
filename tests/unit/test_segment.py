"""From token maps to regions: each pixel is assigned to a token, and each token to a concept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.attention.segmentation import segment
from oracle import regions as oracle
from scenes import generator_of
from torch import Tensor

phrases = st.lists(st.lists(st.integers(0, 5), max_size=3, unique=True), max_size=3)


@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    concepts=phrases,
    suppression=st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.9, 1.0]),
    cut=st.booleans(),
)
def test_regions_equal_the_loop_over_pixels(
    seed: int, size: tuple[int, int], concepts: list[list[int]], suppression: float, cut: bool
) -> None:
    """With phrases of no, one or several tokens that may overlap, and different maps for each image."""
    g = generator_of(seed)
    maps = torch.rand(2, 6, *size, generator=g) + 0.01
    foreground = torch.rand(2, *size, generator=g) < 0.6
    found = segment(maps, foreground, concepts, suppression, cut)
    assert found.label_count == 6 and torch.equal(found.foreground, foreground)
    if suppression == 0 and not any(concepts):
        return  # all scores are equal, so any token may win
    for image in range(2):
        tokens, of_concept = oracle.segment(maps[image], foreground[image], concepts, suppression, cut)
        assert torch.equal(found.labels[image], tokens)
        assert torch.equal(found.concepts[image], of_concept)


def row(*columns: list[float]) -> Tensor:
    """Maps (1, T, 1, W) of a picture one pixel high, given pixel by pixel."""
    return torch.tensor(columns).T[None, :, None]


EVERYWHERE = torch.ones(1, 1, 2, dtype=torch.bool)


@pytest.mark.parametrize(("suppression", "winner"), [(1.0, [0, 0]), (0.9, [0, 1]), (0.8, [1, 1])])
def test_tokens_that_name_no_concept_are_suppressed(suppression: float, winner: list[int]) -> None:
    maps = row([1.0, 0.85, 0.2], [1.0, 0.95, 0.2])
    found = segment(maps, EVERYWHERE, [[1]], suppression, cut=False)
    assert found.labels.flatten().tolist() == winner
    assert found.concepts.flatten().tolist() == [0 if token == 1 else -1 for token in winner]


def test_tokens_of_concepts_are_not_suppressed() -> None:
    maps = row([0.2, 0.8, 0.7], [0.2, 0.7, 0.8])
    found = segment(maps, EVERYWHERE, [[2], [1]], 0.5, cut=False)
    assert found.labels.flatten().tolist() == [1, 2]
    assert found.concepts.flatten().tolist() == [1, 0]


def test_all_tokens_of_a_phrase_belong_to_its_concept() -> None:
    maps = row([0.1, 0.9, 0.2, 0.3], [0.1, 0.2, 0.3, 0.9])
    assert segment(maps, EVERYWHERE, [[1, 3]], 0.9, cut=False).concepts.flatten().tolist() == [0, 0]
    assert segment(maps, EVERYWHERE, [[1], [3]], 0.9, cut=False).concepts.flatten().tolist() == [0, 1]


def test_a_token_in_two_phrases_belongs_to_the_later_concept() -> None:
    maps = row([0.1, 0.9, 0.2], [0.1, 0.2, 0.9])
    assert segment(maps, EVERYWHERE, [[1, 2], [2]], 0.9, cut=False).concepts.flatten().tolist() == [0, 1]
    assert segment(maps, EVERYWHERE, [[2], [1, 2]], 0.9, cut=False).concepts.flatten().tolist() == [1, 1]


def test_the_background_is_cut_from_all_tokens_only_if_requested() -> None:
    maps = row([0.9, 0.1], [0.1, 0.9])
    nowhere = ~EVERYWHERE
    uncut, cut = (segment(maps, nowhere, [[1]], 0.9, cut=cut) for cut in (False, True))
    assert (uncut.labels.flatten().tolist(), uncut.concepts.flatten().tolist()) == ([0, 1], [-1, 0])
    assert (cut.labels.flatten().tolist(), cut.concepts.flatten().tolist()) == ([-1, -1], [-1, -1])
    half = torch.tensor([[[False, True]]])
    assert segment(maps, half, [[1]], 0.9, cut=True).labels.flatten().tolist() == [-1, 1]


def test_a_concept_without_tokens_has_no_region() -> None:
    maps = row([0.9, 0.1], [0.1, 0.9])
    assert segment(maps, EVERYWHERE, [[], [1]], 0.9, cut=False).concepts.flatten().tolist() == [-1, 1]
