"""Measures and combinations: correct on pictures with known results."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dev
from lab.evaluation import evaluate, measures, prompts, stages, tables, world
from lab.evaluation.combinations import Combination, Concept, combination, parts_named_in
from lab.evaluation.sheets import as_tensor
from lab.judge import PARTS, SIDE_PX, Judge, Verdict, look
from lab.portraits import COLOURS, PATTERNS, SKIN, STYLES, WORN, Portrait, draw_portrait
from lab.training.drawn_set import labels_of

NUMBERS = range(12)


@dataclass
class Made:
    """The parts of a studio's result that the measures use."""

    concepts: tuple[str, ...] = ()
    regions: list[Tensor] = field(default_factory=list)


def perfect(portrait: Portrait) -> Verdict:
    """The verdict of a judge without errors."""
    picture = torch.from_numpy(portrait.picture).movedim(-1, 0)[None].float() / 255
    step = portrait.picture.shape[0] // SIDE_PX
    labels = torch.from_numpy(labels_of(portrait)[::step, ::step].copy()).long()[None]
    patterns = torch.zeros(1, len(PATTERNS), SIDE_PX, SIDE_PX)
    for part, of_part in portrait.looks.items():
        patterns[0, PATTERNS.index(of_part.pattern)][labels[0] == PARTS.index(part) + 1] = 1
    styles = torch.tensor([STYLES.index(portrait.style)])
    return Verdict(F.interpolate(picture, (SIDE_PX, SIDE_PX), mode="area"), labels, patterns, styles)


def of_one(number: int) -> tuple[Combination, Concept, Verdict]:
    """A combination of one concept, whose reference itself is the picture."""
    wanted = combination(3 * number)
    (concept,) = wanted.concepts
    return wanted, concept, perfect(concept.views[0].portrait)


@pytest.fixture(scope="module")
def combinations() -> list[Combination]:
    """As many as `dev.py evaluate` makes by default."""
    return [combination(number) for number in range(dev.parse(["evaluate"]).pairs)]


def test_combinations_have_one_to_three_concepts_and_name_no_looks(combinations: list[Combination]) -> None:
    assert len(combinations) >= 64
    for wanted in combinations:
        named = parts_named_in(wanted.prompt)
        assert len(wanted.concepts) == 1 + wanted.number % 3 and wanted.required_parts <= named
        assert named & set(WORN) == wanted.required_parts & set(WORN)
        for text in (wanted.prompt, *(view.caption for concept in wanted.concepts for view in concept.views)):
            assert not set(text.replace(",", "").split()) & {*COLOURS, *SKIN, *PATTERNS}


def test_views_show_their_concept_in_one_look(combinations: list[Combination]) -> None:
    for concept in (concept for wanted in combinations for concept in wanted.concepts):
        first, second = (view.portrait for view in concept.views)
        assert first.looks[concept.part] == second.looks[concept.part] == concept.look
        assert first.masks[concept.part].any() and second.masks[concept.part].any()
        assert not np.array_equal(first.masks[concept.part], second.masks[concept.part])
    held_out = [concept.held_out for wanted in combinations for concept in wanted.concepts]
    assert 0.03 < np.mean(held_out) < 0.25


def test_every_mask_has_a_pixel_on_the_finest_grid_by_nearest(combinations: list[Combination]) -> None:
    """Without one sampling would be refused."""
    for concept in (concept for wanted in combinations for concept in wanted.concepts):
        for view in concept.views:
            mask = torch.from_numpy(view.portrait.masks[concept.part]).float()[None, None]
            assert F.interpolate(mask, (16, 16), mode="nearest").any(), concept.part


def test_no_drawing_is_used_twice(combinations: list[Combination]) -> None:
    pictures = [v.portrait.picture.tobytes() for wanted in combinations for c in wanted.concepts for v in c.views]
    assert len(set(pictures)) == len(pictures)
    again = combination(5)
    assert again.prompt == combinations[5].prompt
    for concept, same in zip(again.concepts, combinations[5].concepts, strict=True):
        assert np.array_equal(concept.views[0].portrait.picture, same.views[0].portrait.picture)


@pytest.mark.parametrize("number", range(6))
def test_a_picture_that_is_its_reference_is_faithful(number: int) -> None:
    wanted, concept, verdict = of_one(number)
    scores = measures.measure(verdict, Made(), wanted)
    assert scores["fidelity"] > 0.95 and scores.get("pattern", 1) == 1 and scores["hue"] < 0.2
    assert scores[f"fidelity {concept.part}"] == scores["fidelity"]
    assert "iou" not in scores
    not_required = [part for part in WORN if part in concept.views[0].portrait.masks and part != concept.part]
    assert scores["prompt"] == pytest.approx(1 - len(not_required) / len(wanted.required_parts | set(WORN)))


@pytest.mark.parametrize("number", range(6))
def test_another_colour_is_less_faithful_and_a_missing_part_not_at_all(number: int) -> None:
    wanted, concept, verdict = of_one(number)
    mask = verdict.pixels_of(concept.part)
    verdict.pictures.movedim(1, -1)[mask] = 1 - verdict.pictures.movedim(1, -1)[mask].roll(1, -1)
    changed = measures.measure(verdict, Made(), wanted)
    assert changed["colour"] > 20 and changed["fidelity"] < 0.8
    gone = replace(verdict, labels=torch.where(mask, 0, verdict.labels))
    scores = measures.measure(gone, Made(), wanted)
    assert scores["fidelity"] == 0 and "colour" not in scores
    assert scores["prompt"] < 1


@pytest.mark.parametrize("number", range(6))
def test_a_look_on_the_wrong_part_is_leakage(number: int) -> None:
    wanted, concept, verdict = of_one(number)
    before = measures.measure(verdict, Made(), wanted)["leakage"]
    pixels = verdict.pictures.movedim(1, -1)
    colours = measures.reference_colours(concept)
    own = torch.from_numpy(colours).float() / 255
    background = verdict.labels == 0
    pixels[background] = own[torch.arange(int(background.sum())) % len(own)]
    after = measures.measure(verdict, Made(), wanted)["leakage"]
    regions = sum(bool((verdict.labels == label).float().mean() > 0.01) for label in range(1 + len(PARTS))) - 1
    # The background, one of the regions, now has the look as far as the reference itself has: not at lines and edges.
    itself = measures.looks_like(colours, concept).mean()
    assert itself > 0.4 and after - before == pytest.approx(itself / regions, rel=0.45)


def concept_parts(verdict: Verdict) -> set[str]:
    return {part for part in PARTS if verdict.pixels_of(part).float().mean() > 0.02}


@pytest.mark.parametrize("number", range(4))
def test_parts_are_well_placed_in_drawings_and_not_in_turned_ones(number: int) -> None:
    _, _, verdict = of_one(number)
    seen = {part: verdict.pixels_of(part)[0].numpy() for part in concept_parts(verdict)}
    assert world.well_placed(seen) >= 0.5
    assert world.well_placed({part: np.flipud(mask) for part, mask in seen.items()}) < 0.5
    assert world.well_placed({part: mask for part, mask in seen.items() if part != "face"}) == 0


def test_colours_with_swapped_channels_are_not_close() -> None:
    """The histograms of red, green and blue are equal, but the colours differ."""
    one = np.array([[208.0, 44, 48], [58, 152, 72]] * 50)
    other = np.array([[208.0, 152, 72], [58, 44, 48]] * 50)
    assert world.colour_distance(one, other) > 10 and world.colour_distance(one, one[::-1]) == 0


def test_unrelated_drawings_have_no_fidelity_on_average() -> None:
    """This uses other drawings than those that the scale was made from."""
    for style in STYLES:
        shown = [
            draw_portrait("evaluation", number, worn=list(WORN), size_px=SIDE_PX, style=style) for number in range(60)
        ]
        for part in PARTS:
            parts = [p for p in shown if part in p.masks and p.masks[part].sum() > 30]
            seen = [portrait.picture[portrait.masks[part]].astype(float) for portrait in parts]
            distances = [world.colour_distance(one, other) for one, other in pairwise(seen)]
            chance = world.chance_distance(part, style)
            assert 1 - np.mean(distances) / chance == pytest.approx(0, abs=0.3), (part, style)


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


def test_intervals_contain_the_mean_and_narrow_with_more_values() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.2, 200)
    low, high = tables.interval(values)
    assert low < values.mean() < high and high - low < 0.08
    few_low, few_high = tables.interval(values[:20])
    assert few_high - few_low > high - low
    assert all(map(math.isnan, tables.interval(values[:0])))


def test_the_json_figures_contain_every_row() -> None:
    none, both = {"fidelity": 0.1, "leakage": 0.2, "prompt": 1.0}, {"fidelity": 0.5, "iou": 0.7}
    table = {"none": [none] * 2, "both": [both] * 2}
    figures = evaluate.as_json(table, range(4, 6))
    assert figures["table"]["none"]["fidelity"] == pytest.approx([0.1, 0])
    assert figures["combinations"] == [4, 5] and figures["pictures"] == table and figures["stages"] == {}
    assert json.loads(json.dumps(figures)) is not None
    assert tables.gain(table, "fidelity", "both", "none")[0] == pytest.approx(0.4)
    assert math.isnan(tables.gain(table, "iou", "both", "none")[0])


def test_tables_have_a_line_for_each_row() -> None:
    table = {"none": [{"fidelity": 0.1}], "both": [{"fidelity": 0.5, "fidelity hat": 0.4}]}
    figures = tables.figures_of(table)
    lines = [tables.main_table(figures), tables.difference_table(figures), tables.part_table(figures)]
    assert [len(part) for part in lines] == [4, 3, 4]
    for part in lines:
        assert len({line.count("|") for line in part}) == 1
    assert "-0.400" in lines[1][2] and "0.400" in lines[2][3]


def test_the_style_is_that_of_prompt_and_references_or_of_each() -> None:
    wanted = combination(4)
    assert wanted.style == "ink" and all(concept.views[0].portrait.style == "ink" for concept in wanted.concepts)
    other = combination(4, "watercolour", "flat")
    assert other.style == "watercolour" and "watercol" in other.prompt
    for concept, same in zip(other.concepts, combination(4, "watercolour").concepts, strict=True):
        assert concept.views[0].portrait.style == "flat" and concept.look == same.look
        assert np.array_equal(concept.ideal.picture, same.views[0].portrait.picture)
    drawn = wanted.drawn()
    assert drawn.style == "ink" and all(drawn.looks[concept.part] == concept.look for concept in wanted.concepts)


def test_a_picture_in_another_style_is_not_in_the_right_one() -> None:
    wanted, _, verdict = of_one(0)
    assert measures.measure(verdict, Made(), wanted)["style"] == 1
    other = replace(verdict, styles=verdict.styles + 1)
    assert measures.measure(other, Made(), wanted)["style"] == 0


def test_groups_compare_both_stages_with_the_blend_stage() -> None:
    none = [{"moved": 0.1 * number} for number in range(9)]
    blend = [{"fidelity": 0.5, "moved": 9.0 - number} for number in range(9)]
    both = [{"fidelity": 0.5 + 0.01 * number} for number in range(9)]
    figures = stages.stages_of({"none": none, "rba": blend, "both": both}, range(9))
    assert figures["all"]["pictures"] == 9 and figures["all"]["fidelity"][0] == pytest.approx(0.04)
    assert figures["1 concept"]["fidelity"][0] == pytest.approx(0.03)  # of 0, 3 and 6
    assert figures["ink"]["fidelity"][0] == pytest.approx(0.04)  # of 3, 4 and 5
    assert figures["far from them"]["fidelity"][0] == pytest.approx(0.065)
    assert len({line.count("|") for line in stages.stage_table(figures)}) == 1
    assert stages.stage_table(stages.stages_of({"both": both}, range(9))) == []


def test_prompts_name_looks_and_drawings_do_what_they_say() -> None:
    found: list[dict[str, float]] = []
    for number in range(9):
        portrait, prompt = prompts.held_out(number)
        assert portrait.style == STYLES[number % 3]
        found.append(prompts.measure(perfect(portrait), portrait, prompt))
        assert found[-1]["style"] == found[-1]["prompt"] == 1 and found[-1]["overlap"] > 0.95
    patterns = tables.values_of(found, "pattern")
    assert len(patterns) > 0 and (patterns == 1).all()
    assert tables.values_of(found, "colour word").mean() > 0.8
    sharp = as_tensor(prompts.held_out(0)[0].picture)
    blurred = F.avg_pool2d(sharp.movedim(-1, 0), 5, 1).movedim(0, -1)
    assert prompts.sharpness(blurred) < prompts.sharpness(sharp) / 2


def test_an_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(range(1), ["nonsense"], None, None) == 1
    assert "no row nonsense; there are: none, rsa, rba, both" in capsys.readouterr().err
