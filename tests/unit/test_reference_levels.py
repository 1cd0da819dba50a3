"""The noise levels at which references are computed."""

from __future__ import annotations

import pytest
from magicface.sampling.references.levels import ReferenceLevels


class Sampling:
    """A model sampling whose noise falls linearly from 8 to 0."""

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level of a part of sampling."""
        return 8.0 * (1.0 - percent)


def test_at_every_level() -> None:
    levels = ReferenceLevels(0.0, Sampling())
    assert [levels.level_for(sigma) for sigma in (8.0, 3.3, 0.01)] == [8.0, 3.3, 0.01]


@pytest.mark.parametrize(("refresh", "parts"), [(1.0, 1), (0.5, 2), (0.25, 4), (0.17, 6), (0.33, 3), (0.7, 1)])
def test_each_part_has_the_level_of_its_middle(refresh: float, parts: int) -> None:
    levels = ReferenceLevels(refresh, Sampling())
    for part in range(parts):
        middle = 8.0 * (1.0 - (part + 0.5) / parts)
        for within in (0.01, 0.5, 0.99):
            assert levels.level_for(8.0 * (1.0 - (part + within) / parts)) == middle


@pytest.mark.parametrize("last_bits", [1 - 1e-7, 1.0, 1 + 1e-7])
def test_the_end_of_a_part_belongs_to_the_next_one(last_bits: float) -> None:
    assert ReferenceLevels(0.25, Sampling()).level_for(6.0 * last_bits) == 5.0


def test_levels_outside_sampling_have_the_first_and_the_last_part() -> None:
    levels = ReferenceLevels(0.25, Sampling())
    assert levels.level_for(80.0) == 7.0
    assert levels.level_for(0.0) == 1.0
