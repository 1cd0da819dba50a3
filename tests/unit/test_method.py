"""A method made from settings and references: its concepts, and the rules that depend on their number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from magicface.attention.schedule import Stage
from magicface.sampling.method import Method, Reference, Schedule
from magicface.sampling.references.noise import SeededNoise
from magicface.sampling.regions import target
from magicface.sampling.regions.source import NoRegions


def reference_of(*tokens: int, weight: float = 2.0, blend_weight: float = 2.0, concept: str = "") -> Reference:
    """A reference whose phrase has these tokens."""
    latents, masks = torch.zeros(1, 4, 8, 8), torch.ones(1, 64, 64)
    return Reference(concept, tokens, "a caption", [], latents, masks, weight, blend_weight)


def method_of(*references: Reference, schedule: Schedule | None = None) -> Method:
    """A method without blocks."""
    return Method(references, schedule or Schedule(), (), (), SeededNoise(0), NoRegions)


def test_references_with_the_same_phrase_are_one_concept() -> None:
    first, other, again = reference_of(1, 2, concept="Hat"), reference_of(2), reference_of(1, 2, concept="hat ")
    method = method_of(first, other, again)
    assert [concept is expected for concept, expected in zip(method.concepts, (first, other), strict=True)] == [
        True
    ] * 2
    assert [method.concept_of(reference) for reference in (first, other, again)] == [0, 1, 0]


def test_equal_places_are_one_and_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of a megapixel takes a while, and its identity is asked for dozens of times in an evaluation."""
    digests, original = [], target.hashlib.sha256
    monkeypatch.setattr(target.hashlib, "sha256", lambda *given: digests.append(given) or original(*given))
    mask = torch.zeros(1, 8, 8)
    placed = [
        replace(reference_of(1), region=target.TargetRegion(given, exact))
        for given, exact in ((mask, True), (mask.clone(), True), (mask, False), (mask + 1, True))
    ]
    method = method_of(*placed)
    assert [method.concept_of(reference) for reference in placed] == [0, 0, 1, 2]
    assert len(digests) == len(placed)


@pytest.mark.parametrize(
    ("weight", "blend_weight", "active"), [(0.0, 0.0, False), (0.0, 1.0, True), (1.0, 0.0, True), (-1.0, 0.0, True)]
)
def test_a_reference_is_inactive_if_both_weights_are_zero(weight: float, blend_weight: float, active: bool) -> None:
    reference = reference_of(1, weight=weight, blend_weight=blend_weight)
    assert reference.active is active
    assert [reference.weight_at(stage) for stage in (Stage.OFF, Stage.LAYOUT, Stage.BLEND)] == [
        0.0,
        weight,
        blend_weight,
    ]


def test_a_concept_is_active_while_any_of_its_references_is() -> None:
    off, on = reference_of(1, weight=0, blend_weight=0), reference_of(1)
    method = method_of(off, on, reference_of(2, weight=0, blend_weight=0))
    assert [method.is_active(concept) for concept in method.concepts] == [True, False]


@pytest.mark.parametrize(
    ("count", "suppression", "cut"), [(1, 0.9, False), (2, 0.6, True), (3, 0.5, True), (7, 0.5, True)]
)
def test_suppression_depends_on_the_number_of_concepts_as_the_authors_does(
    count: int, suppression: float, cut: bool
) -> None:
    method = method_of(*(reference_of(number) for number in range(count)))
    assert (method.suppression, method.cut_to_foreground) == (suppression, cut)
    views_and_absent = (reference_of(0), reference_of(99, weight=0, blend_weight=0))
    method = method_of(*method.references, *views_and_absent)
    assert (method.suppression, method.cut_to_foreground) == (suppression, cut)


@pytest.mark.parametrize(
    ("suppression", "foreground", "cut"),
    [
        (0.9, "auto", False),
        (0.89, "auto", True),
        (1.0, "auto", False),
        (0.0, "auto", True),
        (0.95, "always", True),
        (0.3, "never", False),
    ],
)
def test_settings_override_the_automatic_suppression(suppression: float, foreground: str, cut: bool) -> None:
    schedule = Schedule(suppression=suppression, foreground=foreground)
    method = method_of(reference_of(1), reference_of(2), schedule=schedule)
    assert (method.suppression, method.cut_to_foreground) == (suppression, cut)


def test_defaults_are_those_of_the_authors() -> None:
    schedule = Schedule()
    assert (schedule.start, schedule.end, schedule.injection_blocks, schedule.segmentation_blocks) == (
        0.0,
        1.0,
        "auto",
        "auto",
    )
    assert 0.4195 < schedule.switch < 0.4394
    assert schedule.suppression is None and schedule.foreground == "auto" and schedule.guidance
