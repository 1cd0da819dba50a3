"""The evaluation of masks from words: its drawings, figures and tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lab.evaluation import mask_decisions, masks
from lab.evaluation.mask_rows import CHOICES, SHIPPED


def test_drawings_are_reproducible_and_their_parts_are_named() -> None:
    portrait, caption = masks.drawing(3)
    again, same = masks.drawing(3)
    assert np.array_equal(portrait.picture, again.picture) and caption == same
    parts = masks.parts_of(portrait, caption)
    assert parts and all(part in caption and part in portrait.masks for part in parts)


def test_overlap() -> None:
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[:2], other[1:3] = True, True
    assert masks.overlap(one, other) == pytest.approx(1 / 3) and masks.overlap(one, one) == 1
    assert masks.overlap(np.zeros((4, 4), bool), np.zeros((4, 4), bool)) == 0


def test_otsu_separates_two_groups() -> None:
    values = torch.cat((torch.full((50,), 0.2), torch.full((20,), 0.7)))
    assert 0.2 < mask_decisions.otsu(values) < 0.7


def test_small_parts_are_dropped() -> None:
    mask = np.zeros((20, 20), bool)
    mask[:10, :10], mask[15:19, 15:19], mask[18, 2] = True, True, True
    kept = mask_decisions.without_small_parts(mask)
    assert not kept[18, 2] and not kept[15:19, 15:19].any() and kept.sum() == 100
    mask[14:20, 14:20] = True
    assert mask_decisions.without_small_parts(mask).sum() == 136
    assert not mask_decisions.without_small_parts(np.zeros((3, 3), bool)).any()


def test_the_figures_are_of_the_quoted_half() -> None:
    names = [row.name for row in (SHIPPED, masks.RAW, *CHOICES)]
    choosing = [{name: {"hat": 0.1} for name in names}]
    quoting = [{name: {"hat": 0.8, "face": 0.6} for name in names}, {}]
    table = {
        masks.EXACT.name: [{"fidelity": 0.8, "fidelity hat": 0.8}] * 2,
        masks.FROM_WORDS.name: [{"fidelity": 0.7, "fidelity hat": 0.7}] * 2,
    }
    figures = masks.figures_of(choosing, quoting, table)
    assert figures["iou"] == figures["iou_raw"] == pytest.approx(0.7)
    assert figures["iou_by_part"] == {"face": 0.6, "hat": 0.8}
    assert figures["choices"][SHIPPED.name] == pytest.approx([0.1, 0.7])
    assert figures["fidelity_exact"] == pytest.approx(0.8) and figures["fidelity_auto"] == pytest.approx(0.7)
    assert figures["fidelity_difference"][0] == pytest.approx(-0.1)
    assert json.loads(json.dumps(figures)) is not None
    for lines in (masks.part_table(figures), masks.choice_table(figures), masks.fidelity_table(figures)):
        assert len({line.count("|") for line in lines}) == 1


def test_rows_have_different_names() -> None:
    names = [row.name for row in (SHIPPED, masks.RAW, *CHOICES)]
    assert len(set(names)) == len(names)
