"""Stages by noise level."""

from __future__ import annotations

import pytest
from magicface.attention.schedule import Stage, StageSigmas

BORDERS = StageSigmas(start=10.0, switch=4.0, end=1.0)


@pytest.mark.parametrize(
    ("sigma", "stage"),
    [
        (10.01, Stage.OFF),
        (10.0, Stage.LAYOUT),
        (7.0, Stage.LAYOUT),
        (4.0, Stage.LAYOUT),
        (3.99, Stage.BLEND),
        (1.0, Stage.BLEND),
        (0.99, Stage.OFF),
        (0.0, Stage.OFF),
    ],
)
def test_a_border_belongs_to_the_stage_before_it(sigma: float, stage: Stage) -> None:
    """The blend stage begins strictly below the switch."""
    assert BORDERS.stage(sigma) is stage


def test_a_run_from_0_to_1_is_never_off() -> None:
    """For ComfyUI, percent 0 and 1 are the sigmas 999999999.9 and 0."""
    highest, lowest = 999999999.9, 0.0
    levels = (14.6, 3.0, 0.03, 0.0)
    assert {StageSigmas(highest, highest, lowest).stage(level) for level in levels} == {Stage.BLEND}
    assert {StageSigmas(highest, lowest, lowest).stage(level) for level in levels} == {Stage.LAYOUT}
    assert {StageSigmas(lowest, lowest, lowest).stage(level) for level in levels[:3]} == {Stage.OFF}


def test_an_empty_stage_is_skipped() -> None:
    no_layout, no_blend = StageSigmas(10.0, 10.0, 1.0), StageSigmas(10.0, 1.0, 1.0)
    assert [no_layout.stage(sigma) for sigma in (11.0, 9.9, 1.0, 0.5)] == [
        Stage.OFF,
        Stage.BLEND,
        Stage.BLEND,
        Stage.OFF,
    ]
    assert [no_blend.stage(sigma) for sigma in (10.0, 5.0, 1.0, 0.5)] == [
        Stage.LAYOUT,
        Stage.LAYOUT,
        Stage.LAYOUT,
        Stage.OFF,
    ]
