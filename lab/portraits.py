"""Drawn portraits with exact masks and captions: the world that the small model learns.

A figure has a face, hair and a shirt, and may have a hat, glasses and a scarf. Shapes, positions, sizes, colours and
patterns are random, and the visible pixels of every part are known. A drawing has one of three styles. Pictures of
twins show two figures of different shapes with the same looks, so that something repeats for self-attention to compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from .finishes import FINISHES, Style
from .portrait_drawing import Canvas, filling, near
from .portrait_shapes import Figure
from .style_words import style_words

Split = Literal["train", "twins", "reference", "evaluation"]
Pattern = Literal["plain", "striped", "dotted", "checked"]
STYLES: tuple[Style, ...] = tuple(FINISHES)

SIZE_PX = 256
_FINE = 3  # drawn larger by this factor, then averaged down
PATTERNS: tuple[Pattern, ...] = ("plain", "striped", "dotted", "checked")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 44, 48),
    "orange": (238, 132, 36),
    "yellow": (244, 210, 60),
    "green": (58, 152, 72),
    "teal": (38, 160, 164),
    "blue": (48, 92, 196),
    "purple": (132, 66, 172),
    "pink": (242, 142, 180),
    "brown": (126, 80, 46),
    "white": (244, 242, 236),
    "grey": (142, 144, 150),
    "black": (38, 36, 42),
}
SKIN: dict[str, tuple[int, int, int]] = {
    "pale": (255, 224, 196),
    "light": (244, 203, 170),
    "tan": (222, 170, 130),
    "bronze": (176, 122, 84),
    "dark": (124, 82, 56),
}
# What a figure may wear, and how often it does.
WORN = {"hat": 0.6, "glasses": 0.4, "scarf": 0.45}
# Parts with a look, which captions may name, and how often each of PATTERNS is drawn on them.
LOOKS: dict[str, tuple[float, float, float, float]] = {
    "face": (1.0, 0.0, 0.0, 0.0),
    "hair": (0.7, 0.3, 0.0, 0.0),
    "shirt": (0.4, 0.25, 0.175, 0.175),
    "hat": (0.4, 0.25, 0.175, 0.175),
    "glasses": (1.0, 0.0, 0.0, 0.0),
    "scarf": (0.4, 0.25, 0.175, 0.175),
}
# The seeds of the splits do not overlap.
_SEED_BASE: dict[Split, int] = {"train": 0, "reference": 1 << 40, "evaluation": 2 << 40, "twins": 3 << 40}
_FINISH_SEEDS = 1 << 34
_TRAINING = ("train", "twins")
_HELD_OUT_SHARE = 8
# For each figure of a picture, as shares of its width: the range of its position, and of half its head's width.
_ALONE = (((0.26, 0.74), (0.14, 0.24)),)
_TWINS = (((0.18, 0.32), (0.09, 0.15)), ((0.68, 0.82), (0.09, 0.15)))


@dataclass(frozen=True)
class Look:
    """How a part looks.

    Attributes:
        colour: a name in `COLOURS`, of a face in `SKIN`.
        pattern: one of `PATTERNS`.
        second: the pattern's other colour, which contrasts; None if plain.
    """

    colour: str
    pattern: Pattern = "plain"
    second: str | None = None

    @property
    def words(self) -> str:
        """The words before the noun, such as "red striped"."""
        return self.colour if self.pattern == "plain" else f"{self.colour} {self.pattern}"


@dataclass(frozen=True, eq=False)
class Portrait:
    """A drawn figure.

    Attributes:
        picture: (size, size, 3) uint8.
        masks: by part, its visible pixels, (size, size) bool; invisible parts are missing.
        looks: by part, its look.
        figures: number of figures.
        style: one of `STYLES`.
    """

    picture: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]
    looks: dict[str, Look]
    figures: int
    style: Style


def is_held_out(part: str, look: Look) -> bool:
    """Whether a part never has this look in training: about one look in ten, none of faces."""
    if part == "face":
        return False
    digest = hashlib.sha256(f"{part}|{look.words}".encode()).digest()
    return digest[0] % _HELD_OUT_SHARE == 0


def palette_of(part: str) -> dict[str, tuple[int, int, int]]:
    """The colours that a part may have, by name."""
    return SKIN if part == "face" else COLOURS


def generator_of(split: Split, number: int) -> Generator:
    """The random number generator of one portrait."""
    return np.random.default_rng(_SEED_BASE[split] + number)


def draw_portrait(
    split: Split,
    number: int,
    worn: Sequence[str] | None = None,
    size_px: int = SIZE_PX,
    looks: Mapping[str, Look] | None = None,
    *,
    style: Style,
) -> Portrait:
    """Draw portrait `number` of a split, which is always the same.

    Args:
        split: "train" and "twins", whose pictures show two figures, have no held-out looks; the others have all looks.
        number: from 0.
        worn: which of `WORN` the figure has; None for a random choice.
        size_px: side of the picture.
        looks: the looks of some parts; the other parts' looks are random.
        style: of the drawing, whose shapes are the same in all styles.

    Raises:
        ValueError: `worn` has something that is not in `WORN`.
    """
    rng = generator_of(split, number)
    by_chance = [part for part, share in WORN.items() if rng.random() < share]
    worn = by_chance if worn is None else worn
    if not set(worn) <= set(WORN):
        raise ValueError(f"worn: {sorted(set(worn) - set(WORN))} cannot be drawn; choose among {', '.join(WORN)}")
    chosen = {part: _look(rng, part, split) for part in LOOKS} | dict(looks or {})
    # The finish has random numbers of its own, so that the styles of one number show the same figure.
    canvas = Canvas(generator_of(split, _FINISH_SEEDS + number), size_px * _FINE, style)
    drawn = {part: look for part, look in chosen.items() if part not in WORN or part in worn}
    colours = {part: [near(rng, colour) for colour in _colours(part, look)] for part, look in drawn.items()}
    for across, size in _TWINS if split == "twins" else _ALONE:
        figure = Figure(rng, canvas, across, size)
        fills = {
            part: filling(look.pattern, colours[part], figure.unit * rng.uniform(0.6, 0.9), rng.uniform(0, np.pi))
            for part, look in drawn.items()
        }
        figure.draw(fills, worn)

    pixels, areas = canvas.finished()
    picture = np.asarray(Image.fromarray(pixels).resize((size_px, size_px), Image.Resampling.BOX)).copy()
    # A pixel belongs to a part if most of its fine pixels do. A part without pixels is left out.
    blocks = (size_px, _FINE, size_px, _FINE)
    masks = {part: area.reshape(blocks).mean(axis=(1, 3)) > 0.5 for part, area in areas.items()}
    seen = {part: mask for part, mask in masks.items() if mask.any()}
    looks_seen = {part: look for part, look in chosen.items() if part in seen}
    return Portrait(picture, seen, looks_seen, len(_TWINS if split == "twins" else _ALONE), style)


def caption_of(portrait: Portrait, rng: Generator, with_looks: bool) -> str:
    """A caption, in one of several phrasings.

    Args:
        portrait: the portrait; its style is named, but for flat colour not always.
        rng: chooses the phrasing.
        with_looks: whether the nouns are preceded by colour and pattern.
    """

    def named(part: str) -> str:
        look = portrait.looks.get(part)
        return f"{look.words} {part}" if with_looks and look else part

    def with_article(part: str) -> str:
        phrase = named(part)
        if part in ("hair", "glasses"):
            return phrase
        return ("an " if phrase[0] in "aeiou" else "a ") + phrase

    opening, ending = style_words(portrait.style, portrait.figures, rng)
    body = [with_article(part) for part in ("face", "hair", "shirt") if part in portrait.masks and rng.random() < 0.8]
    worn = [with_article(part) for part in WORN if part in portrait.masks]
    phrasing = rng.integers(3)
    if phrasing == 0:
        return ", ".join([opening, *body, *worn]) + ending
    verb = "wearing" if phrasing == 1 else "in"
    text = f"{opening} with {_listed(body)}" if body else opening
    return (f"{text} {verb} {_listed(worn)}" if worn else text) + ending


def _listed(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _look(rng: Generator, part: str, split: Split) -> Look:
    """A random look; in training it is drawn again if it is held out."""
    while True:
        colour, second = (str(name) for name in rng.choice(list(palette_of(part)), size=2, replace=False))
        pattern = PATTERNS[int(rng.choice(len(PATTERNS), p=LOOKS[part]))]
        look = Look(colour) if pattern == "plain" else Look(colour, pattern, _contrasting(colour, second))
        if split not in _TRAINING or not is_held_out(part, look):
            return look


def _contrasting(colour: str, second: str) -> str:
    """The second colour, or white or black if the second is too similar to the first."""
    apart = np.abs(np.subtract(COLOURS[colour], COLOURS[second])).sum()
    if apart > 180:
        return second
    return "white" if sum(COLOURS[colour]) < 400 else "black"


def _colours(part: str, look: Look) -> list[tuple[int, int, int]]:
    """The one or two colours of a look."""
    return [palette_of(part)[name] for name in (look.colour, look.second) if name]
