"""Drawn portraits: repeatable, with correct masks and captions."""

from __future__ import annotations

import numpy as np
import pytest

from lab import examples, portraits
from lab.portraits import (
    COLOURS,
    LOOKS,
    PATTERNS,
    SKIN,
    WORN,
    caption_of,
    draw_portrait,
    generator_of,
    is_held_out,
    palette_of,
)

SMALL = 64
NUMBERS = range(40)


def portrait_of(split: portraits.Split, number: int, **how: object) -> portraits.Portrait:
    return draw_portrait(split, number, size_px=SMALL, **({"style": "flat"} | how))  # type: ignore[arg-type]


def test_the_same_number_gives_the_same_portrait() -> None:
    once, again, other = portrait_of("train", 3), portrait_of("train", 3), portrait_of("train", 4)
    assert np.array_equal(once.picture, again.picture) and once.looks == again.looks
    assert all(np.array_equal(once.masks[part], again.masks[part]) for part in once.masks)
    assert not np.array_equal(once.picture, other.picture)


def test_splits_have_no_portrait_in_common() -> None:
    drawn = [
        portrait_of(split, number).picture.tobytes()
        for split in ("train", "twins", "reference", "evaluation")
        for number in range(5)
    ]
    assert len(set(drawn)) == len(drawn)


def test_only_training_has_no_held_out_looks() -> None:
    def held_out(split: portraits.Split) -> list[bool]:
        return [
            is_held_out(part, look) for number in NUMBERS for part, look in portrait_of(split, number).looks.items()
        ]

    assert not any(held_out("train"))
    assert 0.03 < np.mean(held_out("evaluation")) < 0.3


def test_masks_are_disjoint_and_only_of_worn_parts() -> None:
    for number in range(12):
        worn = [part for part, bit in zip(WORN, (1, 2, 4), strict=True) if number & bit]
        portrait = portrait_of("reference", number, worn=worn)
        assert {part for part in portrait.masks if part in WORN} == set(worn)
        assert "face" in portrait.masks and set(portrait.looks) <= set(portrait.masks)
        assert sum(mask.astype(int) for mask in portrait.masks.values()).max() == 1
        assert portrait.picture.shape == (SMALL, SMALL, 3) and portrait.picture.dtype == np.uint8


@pytest.mark.parametrize("part", LOOKS)
def test_a_plain_part_has_its_colour(part: str) -> None:
    """This holds for each colour, within the tolerance for jitter and antialiased edges."""
    errors = []
    for number in range(60):
        portrait = draw_portrait("evaluation", number, worn=list(WORN), size_px=128, style="flat")
        look = portrait.looks.get(part)
        if look and look.pattern == "plain" and portrait.masks[part].sum() > 60:
            median = np.median(portrait.picture[portrait.masks[part]], axis=0)
            errors.append(np.abs(median - palette_of(part)[look.colour]).max())
    assert len(errors) >= 10 and max(errors) < 40


def test_figures_differ_in_position_and_size() -> None:
    faces = [portrait_of("train", number).masks["face"] for number in NUMBERS]
    centres = np.array([np.argwhere(face).mean(axis=0) / SMALL for face in faces])
    areas = np.array([face.mean() for face in faces])
    assert (np.ptp(centres, axis=0) > 0.2).all() and areas.max() > 2 * areas.min()


def test_twins_are_two_figures_with_the_same_look() -> None:
    for number in range(12):
        twins = draw_portrait("twins", number, worn=list(WORN), size_px=128, style="flat")
        assert twins.figures == 2 and "twins" in caption_of(twins, generator_of("twins", number), with_looks=False)
        assert not any(is_held_out(part, look) for part, look in twins.looks.items())
        half = 64
        for part in ("face", "hat", "glasses"):
            left, right = (np.zeros_like(twins.masks[part]) for _ in range(2))
            left[:, :half], right[:, half:] = twins.masks[part][:, :half], twins.masks[part][:, half:]
            assert left.any() and right.any()
            if twins.looks[part].pattern == "plain":
                one, other = (np.median(twins.picture[mask], axis=0) for mask in (left, right))
                assert np.abs(one - other).max() < 30


def test_captions_name_worn_parts_and_looks_only_if_requested() -> None:
    for number in NUMBERS:
        portrait, chooser = portrait_of("train", number), generator_of("train", 1000 + number)
        plain = caption_of(portrait, chooser, with_looks=False).replace(",", "").split()
        assert {part for part in WORN if part in plain} == {part for part in WORN if part in portrait.masks}
        assert not {*COLOURS, *SKIN, *PATTERNS} & set(plain)
        told = caption_of(portrait, chooser, with_looks=True)
        for part in WORN:
            if part in portrait.masks:
                assert f"{portrait.looks[part].words} {part}" in told


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"worn: \['cape'\] cannot be drawn; choose among hat, glasses, scarf"):
        portrait_of("train", 0, worn=["hat", "cape"])


def test_the_workflows_example_pictures_are_up_to_date() -> None:
    for file, picture in examples.files().items():
        assert examples.same(file, picture), f"{file.name}: run python dev.py docs"
