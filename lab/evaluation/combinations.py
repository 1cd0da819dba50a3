"""What the evaluation asks for: prompts that name no looks, and references that are their only source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..finishes import Style
from ..judge import PARTS
from ..portraits import STYLES, WORN, Look, Portrait, caption_of, draw_portrait, generator_of, is_held_out

MAX_CONCEPTS = 3
SMALLEST = {"glasses": 0.006}  # the share of the reference picture that a concept must exceed
SMALLEST_OTHER = 0.02
GRID_STEP_PX = 16  # of the small model's finest token grid
_CHOICES, _SECOND_VIEWS = 1 << 33, 1 << 20  # first seed of the choices, first index of second views
_CANDIDATES = 16  # number of portraits from which one is chosen


@dataclass(frozen=True, eq=False)
class DrawnView:
    """A drawing of the "reference" split, its caption without looks, and a function that draws it in a `style`."""

    portrait: Portrait
    caption: str
    drawn: Callable[..., Portrait]


@dataclass(frozen=True, eq=False)
class Concept:
    """A concept and the drawings that show it.

    Attributes:
        part: its name, which is also its phrase in the prompt.
        views: drawings of two different figures, in which it has the same look.
        ideal: the first of them, drawn in the style that the picture is to have.
    """

    part: str
    views: tuple[DrawnView, DrawnView]
    ideal: Portrait

    @property
    def look(self) -> Look:
        """Its look."""
        return self.views[0].portrait.looks[self.part]

    @property
    def held_out(self) -> bool:
        """Whether this look did not occur in training."""
        return is_held_out(self.part, self.look)


@dataclass(frozen=True, eq=False)
class Combination:
    """A prompt and its references.

    Attributes:
        number: from 0; also the sampler's first seed.
        prompt: names the concepts, other parts and the style, without looks.
        concepts: one to three of them.
        style: the one that the prompt asks for.
    """

    number: int
    prompt: str
    concepts: tuple[Concept, ...]
    style: Style

    @property
    def required_parts(self) -> set[str]:
        """The parts that the picture must show."""
        return {concept.part for concept in self.concepts}

    def drawn(self) -> Portrait:
        """A true drawing of what the prompt asks for, with the looks of the references."""
        return _target(self.number, {concept.part: concept.look for concept in self.concepts}, self.style)


def combination(number: int, style: Style | None = None, of_references: Style | None = None) -> Combination:
    """Combination `number`, which is always the same. The number of concepts cycles through 1, 2 and 3.

    Args:
        number: from 0.
        style: that the prompt asks for; by default it cycles through `STYLES` after every three numbers.
        of_references: their style; by default the same.
    """
    style = style or style_of(number)
    rng = generator_of("evaluation", _CHOICES + number)
    count = 1 + number % MAX_CONCEPTS
    parts = [PARTS[index] for index in rng.choice(len(PARTS), count, replace=False)]
    concepts = tuple(
        drawn_concept(part, number * MAX_CONCEPTS + index, style, of_references) for index, part in enumerate(parts)
    )
    portrait = _target(number, dict.fromkeys(parts), style)
    while True:
        prompt = caption_of(portrait, rng, with_looks=False)
        if set(parts) <= parts_named_in(prompt):
            return Combination(number, prompt, concepts, style)


def style_of(number: int) -> Style:
    """The style of a combination, which changes after every three numbers."""
    return STYLES[number // MAX_CONCEPTS % len(STYLES)]


def parts_named_in(prompt: str) -> set[str]:
    """The parts that a prompt names."""
    return set(prompt.replace(",", "").split()) & set(PARTS)


def _target(number: int, parts: Mapping[str, Look | None], style: Style) -> Portrait:
    """The first of the combination's portraits that shows the parts, which have the given looks or random ones."""
    worn = [part for part in WORN if part in parts]
    looks = {part: look for part, look in parts.items() if look}
    for other in range(number * _CANDIDATES, (number + 1) * _CANDIDATES):
        portrait = draw_portrait("evaluation", other, worn=worn, looks=looks, style=style)
        if set(parts) <= set(portrait.masks):
            return portrait
    raise LookupError(f"no portrait of combination {number} shows {', '.join(parts)}")


def drawn_concept(part: str, index: int, style: Style, of_references: Style | None = None) -> Concept:
    """A concept: the first of its portraits that shows enough of the part, and a second view with the same look.

    Args:
        part: its name.
        index: of the concept.
        style: of the picture that is asked for.
        of_references: the views' style; by default the same.
    """
    seen = of_references or style
    shown = _showing(part, index * _CANDIDATES, None, seen)
    again = _showing(part, (_SECOND_VIEWS + index) * _CANDIDATES, {part: shown.portrait.looks[part]}, seen)
    return Concept(part, (shown, again), shown.portrait if seen == style else shown.drawn(style=style))


def _showing(part: str, first: int, looks: dict[str, Look] | None, style: Style) -> DrawnView:
    for number in range(first, first + _CANDIDATES):
        rng = generator_of("reference", _CHOICES + number)
        worn = [other for other, share in WORN.items() if other == part or rng.random() < share]
        draw = partial(draw_portrait, "reference", number, worn, looks=looks)
        portrait = draw(style=style)
        if part in portrait.masks and is_large_enough(part, portrait.masks[part]):
            return DrawnView(portrait, caption_of(portrait, rng, with_looks=False), draw)
    raise LookupError(f"no reference portrait from {first} on shows enough of {part}")


def is_large_enough(part: str, mask: NDArray[np.bool_]) -> bool:
    """Whether a mask exceeds the smallest share, and has a pixel on a token grid when it is resized by nearest."""
    on_grid = mask[::GRID_STEP_PX, ::GRID_STEP_PX]
    return bool(mask.mean() > SMALLEST.get(part, SMALLEST_OTHER) and on_grid.any())
