"""Measures and combinations: right on pictures whose worth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from devtools.evaluation import evaluate, measures
from devtools.evaluation.combinations import Combination, Concept, combination
from devtools.judge import PARTS, SIDE_PX, Judge, Verdict, look
from devtools.portraits import PATTERNS, WORN, Portrait
from devtools.training.drawn_set import labels_of

NUMBERS = range(12)


@dataclass
class Made:
    """What the studio hands over, as far as measures look at it."""

    concepts: tuple[str, ...] = ()
    regions: list[Tensor] = field(default_factory=list)


def perfect(portrait: Portrait) -> Verdict:
    """What a judge without error sees in a drawing."""
    picture = torch.from_numpy(portrait.picture).movedim(-1, 0)[None].float() / 255
    step = portrait.picture.shape[0] // SIDE_PX
    labels = torch.from_numpy(labels_of(portrait)[::step, ::step].copy()).long()[None]
    patterns = torch.zeros(1, len(PATTERNS), SIDE_PX, SIDE_PX)
    for part, of_part in portrait.looks.items():
        patterns[0, PATTERNS.index(of_part.pattern)][labels[0] == PARTS.index(part) + 1] = 1
    return Verdict(F.interpolate(picture, (SIDE_PX, SIDE_PX), mode="area"), labels, patterns)


def of_one(number: int) -> tuple[Combination, Concept, Verdict]:
    """A combination of one concept, and its own reference as the picture made of it."""
    concept = combination(3 * number).concepts[0]
    return Combination(0, f"a person with {concept.part}", (concept,)), concept, perfect(concept.portrait)


def test_combinations_are_repeatable_and_ask_for_one_to_three_concepts() -> None:
    for number in NUMBERS:
        once, again = combination(number), combination(number)
        assert once.prompt == again.prompt and len(once.concepts) == 1 + number % 3
        for concept, same in zip(once.concepts, again.concepts, strict=True):
            assert np.array_equal(concept.portrait.picture, same.portrait.picture)
            assert concept.part in once.prompt.split() or concept.part in once.prompt.replace(",", "").split()
            assert concept.part in concept.portrait.masks
        words = set(once.prompt.replace(",", "").split())
        assert {part for part in WORN if part in words} == once.asked & set(WORN)
        assert not words & {concept.portrait.looks[concept.part].colour for concept in once.concepts}


def test_references_of_a_table_never_repeat() -> None:
    pictures = [c.portrait.picture.tobytes() for number in NUMBERS for c in combination(number).concepts]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("number", range(6))
def test_a_picture_that_is_its_reference_is_faithful(number: int) -> None:
    wanted, concept, verdict = of_one(number)
    scores = measures.measure(verdict, Made(), wanted)
    assert scores["fidelity"] > 0.95 and scores["pattern"] == 1 and scores["hue"] < 0.2
    assert "iou" not in scores
    unasked = [part for part in WORN if part in concept.portrait.masks and part != concept.part]
    assert scores["prompt"] == pytest.approx(1 - len(unasked) / len(wanted.asked | set(WORN)))


@pytest.mark.parametrize("number", range(6))
def test_another_colour_is_less_faithful_and_a_missing_part_not_at_all(number: int) -> None:
    wanted, concept, verdict = of_one(number)
    mask = verdict.pixels_of(concept.part)
    verdict.pictures.movedim(1, -1)[mask] = 1 - verdict.pictures.movedim(1, -1)[mask].roll(1, -1)
    changed = measures.measure(verdict, Made(), wanted)
    assert changed["colour"] > 20 and changed["fidelity"] < 0.9
    gone = Verdict(verdict.pictures, torch.where(mask, 0, verdict.labels), verdict.patterns)
    scores = measures.measure(gone, Made(), wanted)
    assert scores["fidelity"] == 0 and "colour" not in scores
    assert scores["prompt"] < 1


def test_a_look_in_the_wrong_place_is_leakage() -> None:
    wanted, concept, verdict = of_one(1)
    before = measures.measure(verdict, Made(), wanted)["leakage"]
    own = verdict.pictures.movedim(1, -1)[verdict.pixels_of(concept.part)]
    background = verdict.labels == 0
    places = background.nonzero()[: int(background.sum()) // 2]
    for count, (image, y, x) in enumerate(places.tolist()):
        verdict.pictures[image, :, y, x] = own[count % len(own)]
    after = measures.measure(verdict, Made(), wanted)["leakage"]
    others = int((~verdict.pixels_of(concept.part)).sum())
    assert after - before == pytest.approx(len(places) / others, abs=0.15)


def test_regions_on_their_parts_have_iou_one() -> None:
    wanted, concept, verdict = of_one(0)
    share = F.interpolate(verdict.pixels_of(concept.part)[:, None].float(), (16, 16), mode="area")[0, 0]
    right = torch.where(share >= min(0.5, float(share.max()) / 2), 0, -1)
    nowhere = torch.full_like(right, -1)
    made = Made((concept.part,), [nowhere, right])
    scores = measures.measure(verdict, made, wanted)
    assert scores["iou"] == 1 and scores["iou_steps"] == 0.5


def test_the_judge_takes_any_square_picture() -> None:
    verdict = look(Judge().eval(), torch.rand(2, 256, 256, 3))
    assert verdict.labels.shape == (2, SIDE_PX, SIDE_PX) and int(verdict.labels.max()) <= len(PARTS)
    torch.testing.assert_close(verdict.patterns.sum(1), torch.ones(2, SIDE_PX, SIDE_PX))


def test_intervals_hold_the_mean_and_narrow_with_more() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.2, 200)
    low, high = evaluate.interval(values)
    assert low < values.mean() < high and high - low < 0.08
    few_low, few_high = evaluate.interval(values[:20])
    assert few_high - few_low > high - low
    assert all(map(math.isnan, evaluate.interval(values[:0])))


def test_figures_for_machines_hold_every_row() -> None:
    table = {
        "none": [{"fidelity": 0.1, "leakage": 0.2, "prompt": 1.0}] * 2,
        "both": [{"fidelity": 0.5, "iou": 0.7}] * 2,
    }
    figures = evaluate.as_json(table, 2)
    assert figures["fidelity"] == {"none": 0.1, "both": 0.5}
    assert figures["miou"] == 0.7 and figures["pairs"] == {"none": 2, "both": 2}
    assert evaluate.gain(table, "fidelity", "both", "none")[0] == pytest.approx(0.4)
