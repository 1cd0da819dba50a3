"""What is asked for: a picture of two persons who have the same parts, and a reference of each part of each person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...finishes import Style
from ...judge import PARTS
from ...portraits import SIZE_PX, WORN, Look, Portrait, caption_of, draw_portrait, generator_of
from ...style_words import FIGURES
from ..combinations import MAX_CONCEPTS, Combination, Concept, drawn_concept, parts_named_in, style_of

Mask = NDArray[np.bool_]
Masks = dict[tuple[int, str], Mask]  # by person, 0 for the left one, and part
SIDES = ("left", "right")
_CHOICES, _CONCEPTS, _LAYOUTS = 1 << 34, 1 << 16, 1 << 33  # far from the numbers of training and of `combination`
_CANDIDATES = 16
# The share of the picture that a person's part must exceed in the layout.
_SMALLEST, _SMALLEST_GLASSES = 0.006, 0.003


@dataclass(frozen=True, eq=False)
class Pair:
    """Two persons and where they are to be.

    Attributes:
        number: from 0; also the sampler's seed.
        prompt: names the parts once, for both persons, without looks.
        persons: the concepts of the left and of the right person, the same parts in the same order.
        layout: a drawing of two figures with the same looks.
    """

    number: int
    prompt: str
    persons: tuple[tuple[Concept, ...], tuple[Concept, ...]]
    layout: Portrait

    @property
    def alone(self) -> tuple[Combination, Combination]:
        """Each person in a picture of one figure, with the same words."""
        prompt = self.prompt.replace(FIGURES[2][0], FIGURES[1][0])
        left, right = (Combination(self.number, prompt, concepts, self.layout.style) for concepts in self.persons)
        return left, right

    @property
    def concepts(self) -> list[tuple[int, Concept]]:
        """Each concept with its person, 0 for the left one."""
        return [(person, concept) for person, concepts in enumerate(self.persons) for concept in concepts]

    @property
    def masks(self) -> Masks:
        """(256, 256) where the layout has each part of each person."""
        return {
            (person, concept.part): self.layout.masks[concept.part] & half(person) for person, concept in self.concepts
        }

    def drawn(self) -> NDArray[np.uint8]:
        """(256, 256, 3) a true drawing of two persons with the looks of their references."""
        left, right = (
            _layout(self.number, {concept.part: concept.look for concept in concepts}, self.layout.style)
            for concepts in self.persons
        )
        return np.where(half(0)[..., None], left.picture, right.picture)


def half(person: int, side_px: int = SIZE_PX) -> Mask:
    """(side, side) the half of the picture that a person has: 0 for the left one."""
    columns = np.arange(side_px) * 2 // side_px == person
    return np.broadcast_to(columns, (side_px, side_px))


def pair(number: int) -> Pair:
    """Pair `number`, which is always the same. The number of parts cycles through 1, 2 and 3."""
    rng = generator_of("evaluation", _CHOICES + number)
    count = 1 + number % MAX_CONCEPTS
    parts = [PARTS[index] for index in rng.choice(len(PARTS), count, replace=False)]
    style = style_of(number)
    layout = _layout(number, dict.fromkeys(parts), style)
    first = _CONCEPTS + 2 * number * MAX_CONCEPTS
    left, right = (
        tuple(drawn_concept(part, first + person * MAX_CONCEPTS + index, style) for index, part in enumerate(parts))
        for person in range(2)
    )
    while True:
        prompt = caption_of(layout, rng, with_looks=False)
        if set(parts) <= parts_named_in(prompt):
            return Pair(number, prompt, (left, right), layout)


def _layout(number: int, parts: Mapping[str, Look | None], style: Style) -> Portrait:
    """The first of the pair's drawings in which both figures show the parts, with the given looks or random ones."""
    looks = {part: look for part, look in parts.items() if look}
    worn = [part for part in WORN if part in parts]
    first = _LAYOUTS + number * _CANDIDATES
    for other in range(first, first + _CANDIDATES):
        portrait = draw_portrait("twins", other, worn=worn, looks=looks, style=style)
        shares = {
            part: min((portrait.masks[part] & half(person)).mean() for person in range(2))
            for part in set(parts) & set(portrait.masks)
        }
        if all(shares.get(part, 0) > (_SMALLEST_GLASSES if part == "glasses" else _SMALLEST) for part in parts):
            return portrait
    raise LookupError(f"no layout of pair {number} shows {', '.join(parts)} twice")
