"""The styles of drawn portraits: the same figures, told apart by their finish, with exact masks and honest captions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lab.finishes import FINISHES, Style
from lab.portraits import COLOURS, PATTERNS, SKIN, STYLES, WORN, Look, Portrait, caption_of, draw_portrait, generator_of
from lab.style_words import ENDINGS, OPENINGS

SMALL = 96
WORDS: dict[Style, tuple[str, ...]] = {
    "flat": ("flat", "cartoon"),
    "ink": ("ink",),
    "watercolour": ("watercolour", "watercolor"),
}


def drawn(style: Style, number: int, **how: object) -> Portrait:
    return draw_portrait("train", number, style=style, **({"size_px": SMALL} | how))  # type: ignore[arg-type]


@pytest.mark.parametrize("style", STYLES)
def test_the_same_number_gives_the_same_drawing(style: Style) -> None:
    once, again = drawn(style, 5), drawn(style, 5)
    assert np.array_equal(once.picture, again.picture) and once.looks == again.looks and once.style == style
    assert all(np.array_equal(mask, again.masks[part]) for part, mask in once.masks.items())
    assert not np.array_equal(once.picture, drawn(style, 6).picture)


def test_styles_show_the_same_figure_with_different_pixels() -> None:
    for number in range(6):
        flat, *others = (drawn(style, number, worn=list(WORN)) for style in STYLES)
        for other in others:
            assert other.looks == flat.looks
            shared = (flat.masks["face"] & other.masks["face"]).sum() / (flat.masks["face"] | other.masks["face"]).sum()
            assert shared > 0.7
            assert np.abs(flat.picture.astype(int) - other.picture).mean() > 8


@pytest.mark.parametrize("style", STYLES)
def test_masks_are_disjoint_and_of_the_right_pixels(style: Style) -> None:
    """A part of a strong colour that nothing else has: its mask is where that colour is."""
    for number in range(8):
        looks = {part: Look("white") for part in ("hair", "shirt", "glasses", "scarf")} | {"hat": Look("green")}
        portrait = drawn(style, number, worn=["hat"], looks=looks, size_px=256)
        assert sum(mask.astype(int) for mask in portrait.masks.values()).max() == 1
        hat = portrait.masks["hat"]
        red, green, blue = (portrait.picture[..., channel].astype(int) for channel in range(3))
        greenish = (green > red + 25) & (green > blue + 15)
        figure = np.logical_or.reduce(list(portrait.masks.values()))
        inside, others = inner(hat), inner(figure & ~hat)
        assert greenish[inside].mean() > (0.7 if style == "ink" else 0.97)  # ink has lines
        assert greenish[others].mean() < 0.02


def inner(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels that are 3 pixels or more away from the mask's edge."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MinFilter(7))) > 0


def test_only_ink_has_dark_lines_and_only_flat_colour_is_even() -> None:
    looks = {part: Look("yellow") for part in ("hair", "shirt", "hat", "scarf", "glasses")} | {"face": Look("pale")}
    dark: dict[Style, list[float]] = {style: [] for style in STYLES}
    uneven: dict[Style, list[float]] = {style: [] for style in STYLES}
    for number in range(8):
        for style in STYLES:
            portrait = drawn(style, number, worn=["hat"], looks=looks, size_px=256)
            dark[style].append((portrait.picture[portrait.masks["hat"]].max(-1) < 110).mean())
            uneven[style].append(portrait.picture[inner(portrait.masks["shirt"])].std(0).mean())
    assert min(dark["ink"]) > 0.03 and max(dark["flat"] + dark["watercolour"]) < 0.01
    assert np.mean(uneven["flat"]) < 1 and np.mean(uneven["watercolour"]) > 3


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("pattern", PATTERNS[1:])
def test_patterns_keep_both_colours(style: Style, pattern: str) -> None:
    look = Look("blue", pattern, "white")  # type: ignore[arg-type]
    for number in range(4):
        portrait = drawn(style, number, worn=[], looks={"shirt": look}, size_px=256)
        colours = portrait.picture[portrait.masks["shirt"]].astype(int)
        for name in ("blue", "white"):
            assert (np.abs(colours - COLOURS[name]).max(-1) < 70).mean() > 0.1, (number, name)


def test_captions_name_the_style() -> None:
    openings = set()
    for style in STYLES:
        named = []
        for number in range(60):
            caption = caption_of(drawn(style, number, size_px=16), generator_of("train", number), with_looks=False)
            others = [word for other in STYLES if other != style for word in WORDS[other]]
            words = caption.replace(",", "").split()
            assert not set(others) & set(words) and not {*COLOURS, *SKIN} & set(words)
            named.append(bool(set(WORDS[style]) & set(words)))
            openings.add(caption.split(" with ")[0].split(",")[0])
        assert all(named) or (style == "flat" and 0.3 < np.mean(named) < 0.9)
    assert len(openings) > 20
    assert set(OPENINGS) == set(ENDINGS) == set(FINISHES)
