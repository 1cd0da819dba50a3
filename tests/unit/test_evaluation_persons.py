"""Two persons in one picture: what is asked for, the judge by halves, and the measures where the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lab.evaluation import tables
from lab.evaluation.combinations import parts_named_in
from lab.evaluation.measures import looks_like, reference_colours
from lab.evaluation.persons import measures, persons
from lab.evaluation.persons.halves import look_at_halves
from lab.evaluation.persons.pairs import Pair, half, pair
from lab.judge import PARTS, SIDE_PX, Verdict, load_judge
from lab.portraits import PATTERNS, STYLES, WORN, draw_portrait
from lab.training.drawn_set import labels_of


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [pair(number) for number in range(12)]


def perfect(wanted: Pair, swapped: bool = False) -> Verdict:
    """A judge without errors sees the layout, with each person's parts in the colours of that person's references."""
    labels = torch.from_numpy(labels_of(wanted.layout)[::2, ::2].copy()).long()[None]
    picture = torch.from_numpy(wanted.layout.picture).movedim(-1, 0)[None].float() / 255
    pixels = F.interpolate(picture, (SIDE_PX, SIDE_PX), mode="area")
    for person in range(2):
        for concept in wanted.persons[1 - person if swapped else person]:
            colours = torch.from_numpy(reference_colours(concept)).float() / 255
            mask = (labels[0] == PARTS.index(concept.part) + 1) & torch.from_numpy(half(person, SIDE_PX).copy())
            pixels[0, :, mask] = colours[torch.arange(int(mask.sum())) * len(colours) // int(mask.sum())].T
    styles = torch.tensor([STYLES.index(wanted.layout.style)])
    return Verdict(pixels, labels, torch.zeros(1, len(PATTERNS), SIDE_PX, SIDE_PX), styles)


def scores_of(wanted: Pair, verdict: Verdict) -> dict[str, float]:
    return measures.measure_pair(verdict, wanted, wanted.masks)


def test_both_persons_have_the_same_parts_and_looks_of_their_own(pairs: list[Pair]) -> None:
    for wanted in pairs:
        left, right = ([concept.part for concept in concepts] for concepts in wanted.persons)
        assert left == right and len(left) == 1 + wanted.number % 3 and set(left) <= parts_named_in(wanted.prompt)
        assert set(wanted.masks) == {(person, part) for person in range(2) for part in left}
        for (person, _), mask in wanted.masks.items():
            assert mask.any() and not mask[~half(person)].any()
    looks = [(c.look, d.look) for wanted in pairs for c, d in zip(*wanted.persons, strict=True)]
    assert np.mean([one != other for one, other in looks]) > 0.7


def test_no_drawing_is_used_twice(pairs: list[Pair]) -> None:
    shown = [c.views[0].portrait.picture.tobytes() for wanted in pairs for person in wanted.persons for c in person]
    shown += [wanted.layout.picture.tobytes() for wanted in pairs]
    assert len(set(shown)) == len(shown)
    assert np.array_equal(pair(5).layout.picture, pairs[5].layout.picture) and pair(5).prompt == pairs[5].prompt


def test_a_person_alone_has_the_same_words(pairs: list[Pair]) -> None:
    for wanted in pairs:
        assert "twins" in wanted.prompt
        for one, concepts in zip(wanted.alone, wanted.persons, strict=True):
            assert "a person" in one.prompt and "twins" not in one.prompt and one.style == wanted.layout.style
            assert one.concepts == concepts and parts_named_in(one.prompt) == parts_named_in(wanted.prompt)


@pytest.mark.parametrize("number", range(6))
def test_right_looks_are_faithful_and_swapped_ones_are_not(number: int, pairs: list[Pair]) -> None:
    wanted = pairs[number]
    right, wrong = (scores_of(wanted, perfect(wanted, swapped)) for swapped in (False, True))
    assert right["fidelity"] > 0.95 and right["between"] < 0.05 and right["iou"] > 0.9
    assert wrong["swapped"] == pytest.approx(right["fidelity"], abs=0.02)
    assert wrong["fidelity"] == pytest.approx(right["swapped"], abs=0.02)
    if all(a.look != b.look for a, b in zip(*wanted.persons, strict=True)):
        # As much as the references themselves: lines and edges look like nobody's.
        swapped = [
            (reference_colours(b), a, b)
            for one in (wanted.persons, wanted.persons[::-1])
            for a, b in zip(*one, strict=True)
        ]
        expected = np.mean([(looks_like(seen, b) & ~looks_like(seen, a)).mean() for seen, a, b in swapped])
        assert wrong["between"] == pytest.approx(expected, abs=0.1) and expected > 0.4


def test_half_of_a_part_with_the_other_look_is_half_between(pairs: list[Pair]) -> None:
    wanted = next(one for one in pairs if all(a.look != b.look for a, b in zip(*one.persons, strict=True)))
    verdict, other = perfect(wanted), perfect(wanted, swapped=True)
    rows = torch.arange(SIDE_PX)[:, None] % 2 == 0
    mixed = replace(verdict, pictures=torch.where(rows, verdict.pictures, other.pictures))
    most = scores_of(wanted, other)["between"]
    assert scores_of(wanted, mixed)["between"] == pytest.approx(most / 2, rel=0.2)


def test_a_missing_part_is_not_faithful(pairs: list[Pair]) -> None:
    wanted = pairs[0]
    verdict = perfect(wanted)
    gone = replace(verdict, labels=torch.zeros_like(verdict.labels))
    scores = scores_of(wanted, gone)
    assert scores["persons"] == scores["fidelity"] == scores["swapped"] == scores["iou"] == 0
    assert "between" not in scores
    one = replace(verdict, labels=torch.where(torch.arange(SIDE_PX) < 64, verdict.labels, 0))
    assert scores_of(wanted, one)["fidelity"] == pytest.approx(scores_of(wanted, verdict)["fidelity"] / 2, abs=0.05)


def test_the_judge_finds_the_parts_of_two_figures() -> None:
    """In drawings: those that are not used anywhere else."""
    judge = load_judge()
    inside, either = np.zeros(1 + len(PARTS)), np.zeros(1 + len(PARTS))
    for number in range(16):
        portrait = draw_portrait("twins", (1 << 36) + number, worn=list(WORN), style=STYLES[number % len(STYLES)])
        verdict = look_at_halves(judge, torch.from_numpy(portrait.picture).float() / 255)
        assert verdict.labels.shape == (1, SIDE_PX, SIDE_PX)
        torch.testing.assert_close(verdict.patterns.sum(1), torch.ones(1, SIDE_PX, SIDE_PX))
        truth, found = labels_of(portrait)[::2, ::2], verdict.labels[0].numpy()
        for label in range(1 + len(PARTS)):
            inside[label] += ((truth == label) & (found == label)).sum()
            either[label] += ((truth == label) | (found == label)).sum()
    assert (inside / either > 0.55).all() and inside[0] / either[0] > 0.9, inside / either


def test_masks_of_what_is_seen_fall_back_to_the_given_ones(pairs: list[Pair]) -> None:
    wanted, judge = pairs[2], load_judge()
    layout = torch.from_numpy(wanted.layout.picture).float() / 255
    for key, mask in persons.seen_masks(judge, layout, wanted.masks).items():
        assert (mask & wanted.masks[key]).sum() / (mask | wanted.masks[key]).sum() > 0.5, key
    given = wanted.masks
    nothing = persons.seen_masks(judge, torch.full((256, 256, 3), 0.5), given)
    assert all(nothing[key] is mask for key, mask in given.items())


def test_the_tables_compare_with_one_person_alone() -> None:
    table = {
        persons.ALONE: [{"fidelity": 0.7, "leakage": 0.1}],
        "none": [{"fidelity": 0.1, "leakage": 0.2, "between": 0.2, "persons": 1.0}],
    }
    means, differences = persons.tables(tables.figures_of(table, persons.ALONE, persons.COMPARED)).values()
    assert "persons +" in means[0] and "between -" in means[0] and len(means) == 4
    assert differences[0] == "| difference to alone | fidelity | leakage |" and "-0.600" in differences[2]
