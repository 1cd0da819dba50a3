"""The trained model with the method: the references' looks appear on the right parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lab.evaluation import agreement, refresh
from lab.evaluation.combinations import combination
from lab.evaluation.measures import measure
from lab.evaluation.rows import ROWS, Row
from lab.evaluation.studio import Studio
from lab.evaluation.tables import Scores, gain, values_of
from lab.judge import PARTS, Judge, load_judge, look
from lab.portraits import STYLES, draw_portrait
from lab.training.drawn_set import labels_of

pytestmark = pytest.mark.lab

# Two combinations each with one, two and three concepts, and two in each style.
NUMBERS = (0, 2, 3, 4, 7, 8)
# Far below the figures in docs/evaluation.md, and far above chance.
FIDELITY_MARGIN, MIN_IOU, MIN_PROMPT = 0.4, 0.4, 0.8


@pytest.fixture(scope="module")
def studio() -> Studio:
    """The trained model with the pack's nodes."""
    return Studio()


@pytest.fixture(scope="module")
def judge() -> Judge:
    """The shipped judge."""
    return load_judge()


@pytest.fixture(scope="module")
def table(studio: Studio, judge: Judge) -> Iterator[dict[str, list[Scores]]]:
    """Scores without and with the method."""
    scores: dict[str, list[Scores]] = {"none": [], "both": []}
    for wanted in map(combination, NUMBERS):
        for name, of_row in scores.items():
            made = studio.make(wanted, ROWS[name])
            of_row.append(measure(look(judge, made.picture[None]), made, wanted))
    yield scores


def test_the_judge_segments_held_out_drawings(judge: Judge) -> None:
    drawn = [draw_portrait("evaluation", 500 + number, style=STYLES[number % 3]) for number in range(24)]
    pictures = torch.from_numpy(np.stack([portrait.picture for portrait in drawn])).float() / 255
    seen = look(judge, pictures).labels.numpy()
    true = np.stack([labels_of(portrait)[::2, ::2] for portrait in drawn])
    for label, part in enumerate(PARTS, 1):
        is_there, is_seen = true == label, seen == label
        assert (is_there & is_seen).sum() / (is_there | is_seen).sum() > 0.7, part


def test_the_prompt_decides_what_appears(table: dict[str, list[Scores]]) -> None:
    for name in table:
        assert values_of(table[name], "prompt").mean() > MIN_PROMPT, name


def test_references_decide_the_looks(table: dict[str, list[Scores]]) -> None:
    assert gain(table, "fidelity", "both", "none")[0] > FIDELITY_MARGIN
    assert gain(table, "hue", "both", "none")[0] < 0


def test_regions_hit_their_concepts(table: dict[str, list[Scores]]) -> None:
    assert values_of(table["both"], "iou").mean() > MIN_IOU


def test_weights_of_zero_give_the_picture_without_the_method(studio: Studio) -> None:
    wanted = combination(2)
    without, off = (studio.make(wanted, row) for row in (ROWS["none"], Row("off", weight=0.0)))
    assert torch.equal(without.picture, off.picture)
    assert not off.regions


def test_agreement_of_all_blocks_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks agree fully with themselves, a few agree less; measuring this does not change the run."""
    monkeypatch.setattr(agreement, "SPECS", ("all", "auto", "middle"))
    found = agreement.of_combination(0)
    assert all(overlap == same == 1.0 for overlap, same in found["all"]) and len(found["all"]) == 20
    means = {spec: np.mean([overlap for overlap, _ in values]) for spec, values in found.items()}
    assert means["middle"] < means["auto"] < 1.0 and means[agreement.BEFORE] < 1.0
    assert len(found[agreement.BEFORE]) == 19


def test_schemes_for_references_do_what_they_say(studio: Studio) -> None:
    """The laboratory's own levels are those of the product, and passes at every level give the product's picture."""
    wanted, sampling = combination(2), studio.model.get_model_object("model_sampling")
    every, six = (next(scheme for scheme in refresh.SCHEMES if scheme.name.startswith(n)) for n in ("every", "6 parts"))
    with refresh.used(every, studio.pack, sampling) as levels:
        made = studio.make(wanted, ROWS["shipped, refresh 0"])
    assert torch.equal(made.picture, studio.make(wanted, ROWS["shipped, refresh 0"]).picture) and len(levels) == 20
    with refresh.used(six, studio.pack, sampling) as levels:
        studio.make(wanted, ROWS["shipped, refresh 0"])
    shipped = [float(sampling.percent_to_sigma((part + 0.5) / 6)) for part in range(6)]
    assert levels == pytest.approx(shipped, rel=1e-3)
