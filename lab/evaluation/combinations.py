"""What the evaluation asks for: prompts that name no looks, and references that are their only source."""

from __future__ import annotations

from dataclasses import dataclass

from ..judge import PARTS
from ..portraits import WORN, Look, Portrait, caption_of, draw_portrait, generator_of, is_held_out

MAX_CONCEPTS = 3
SMALLEST = {"glasses": 0.006}  # the share of the reference picture that a concept must exceed
SMALLEST_OTHER = 0.02
_CHOICES, _SECOND_VIEWS = 1 << 33, 1 << 20  # first seed of the choices, first index of second views
_CANDIDATES = 16  # number of portraits from which one is chosen


@dataclass(frozen=True, eq=False)
class DrawnView:
    """A drawing of the "reference" split, and its caption without looks."""

    portrait: Portrait
    caption: str


@dataclass(frozen=True, eq=False)
class Concept:
    """A concept and the drawings that show it.

    Attributes:
        part: its name, which is also its phrase in the prompt.
        views: drawings of two different figures, in which it has the same look.
    """

    part: str
    views: tuple[DrawnView, DrawnView]

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
        prompt: names the concepts and other parts, without looks.
        concepts: one to three of them.
    """

    number: int
    prompt: str
    concepts: tuple[Concept, ...]

    @property
    def required_parts(self) -> set[str]:
        """The parts that the picture must show."""
        return {concept.part for concept in self.concepts}


def combination(number: int) -> Combination:
    """Combination `number`, which is always the same. The number of concepts cycles through 1, 2 and 3."""
    rng = generator_of("evaluation", _CHOICES + number)
    count = 1 + number % MAX_CONCEPTS
    parts = [PARTS[index] for index in rng.choice(len(PARTS), count, replace=False)]
    concepts = tuple(drawn_concept(part, number * MAX_CONCEPTS + index) for index, part in enumerate(parts))
    target = _target(number, parts)
    while True:
        prompt = caption_of(target, rng, with_looks=False)
        if set(parts) <= parts_named_in(prompt):
            return Combination(number, prompt, concepts)


def parts_named_in(prompt: str) -> set[str]:
    """The parts that a prompt names."""
    return set(prompt.replace(",", "").split()) & set(PARTS)


def _target(number: int, parts: list[str]) -> Portrait:
    """The first of the combination's portraits that shows the parts; only the prompt is taken from it."""
    worn = [part for part in WORN if part in parts]
    for other in range(number * _CANDIDATES, (number + 1) * _CANDIDATES):
        portrait = draw_portrait("evaluation", other, worn=worn)
        if set(parts) <= set(portrait.masks):
            return portrait
    raise LookupError(f"no portrait of combination {number} shows {', '.join(parts)}")


def drawn_concept(part: str, index: int) -> Concept:
    """A concept: the first of its portraits that shows enough of the part, and a second view with the same look."""
    shown = _showing(part, index * _CANDIDATES, None)
    again = _showing(part, (_SECOND_VIEWS + index) * _CANDIDATES, {part: shown.portrait.looks[part]})
    return Concept(part, (shown, again))


def _showing(part: str, first: int, looks: dict[str, Look] | None) -> DrawnView:
    for number in range(first, first + _CANDIDATES):
        rng = generator_of("reference", _CHOICES + number)
        worn = [other for other, share in WORN.items() if other == part or rng.random() < share]
        portrait = draw_portrait("reference", number, worn=worn, looks=looks)
        if part in portrait.masks and portrait.masks[part].mean() > SMALLEST.get(part, SMALLEST_OTHER):
            return DrawnView(portrait, caption_of(portrait, rng, with_looks=False))
    raise LookupError(f"no reference portrait from {first} on shows enough of {part}")
