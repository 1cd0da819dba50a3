"""What is asked for: a prompt without looks, and references that alone can give them."""

from __future__ import annotations

from dataclasses import dataclass

from ..judge import PARTS
from ..portraits import WORN, Look, Portrait, caption_of, draw_portrait, generator_of, is_held_out

MOST_CONCEPTS = 3
SMALLEST = {"glasses": 0.006}  # share of the reference picture that a concept has at least
SMALLEST_OTHER = 0.02
_CHOICES, _SECOND_VIEWS = 1 << 33, 1 << 20  # where seeds of choices, and places of second views, begin
_SET_ASIDE = 16  # portraits to choose one from


@dataclass(frozen=True, eq=False)
class View:
    """A drawing of the "reference" split, and its caption without looks."""

    portrait: Portrait
    caption: str


@dataclass(frozen=True, eq=False)
class Concept:
    """One concept and the drawings that show it.

    Attributes:
        part: its name, which is also its phrase in the prompt.
        views: two drawings of different figures, in which it has the same look.
    """

    part: str
    views: tuple[View, View]

    @property
    def look(self) -> Look:
        """How it looks."""
        return self.views[0].portrait.looks[self.part]

    @property
    def held_out(self) -> bool:
        """Whether training never saw this look."""
        return is_held_out(self.part, self.look)


@dataclass(frozen=True, eq=False)
class Combination:
    """A prompt and its references.

    Attributes:
        number: from 0; it is also the sampler's first seed.
        prompt: names the concepts and whatever else is to be there, without looks.
        concepts: one to three.
    """

    number: int
    prompt: str
    concepts: tuple[Concept, ...]

    @property
    def asked(self) -> set[str]:
        """Parts that the picture must show."""
        return {concept.part for concept in self.concepts}


def combination(number: int) -> Combination:
    """Combination `number`, the same whenever it is made; 1, 2 and 3 concepts take turns."""
    rng = generator_of("evaluation", _CHOICES + number)
    count = 1 + number % MOST_CONCEPTS
    parts = [PARTS[index] for index in rng.choice(len(PARTS), count, replace=False)]
    concepts = tuple(_concept(part, number * MOST_CONCEPTS + place) for place, part in enumerate(parts))
    target = _target(number, parts)
    while True:
        prompt = caption_of(target, rng, with_looks=False)
        if set(parts) <= named_in(prompt):
            return Combination(number, prompt, concepts)


def named_in(prompt: str) -> set[str]:
    """The parts that a prompt names."""
    return set(prompt.replace(",", "").split()) & set(PARTS)


def _target(number: int, parts: list[str]) -> Portrait:
    """The first of the portraits set aside that shows the parts; it gives the prompt and nothing else."""
    worn = [part for part in WORN if part in parts]
    for other in range(number * _SET_ASIDE, (number + 1) * _SET_ASIDE):
        portrait = draw_portrait("evaluation", other, worn=worn)
        if set(parts) <= set(portrait.masks):
            return portrait
    raise LookupError(f"no portrait set aside for combination {number} shows {', '.join(parts)}")


def _concept(part: str, place: int) -> Concept:
    """The first of the portraits set aside that shows enough of the part, and a second view of its look."""
    shown = _showing(part, place * _SET_ASIDE, None)
    again = _showing(part, (_SECOND_VIEWS + place) * _SET_ASIDE, {part: shown.portrait.looks[part]})
    return Concept(part, (shown, again))


def _showing(part: str, first: int, looks: dict[str, Look] | None) -> View:
    for number in range(first, first + _SET_ASIDE):
        rng = generator_of("reference", _CHOICES + number)
        worn = [other for other, share in WORN.items() if other == part or rng.random() < share]
        portrait = draw_portrait("reference", number, worn=worn, looks=looks)
        if part in portrait.masks and portrait.masks[part].mean() > SMALLEST.get(part, SMALLEST_OTHER):
            return View(portrait, caption_of(portrait, rng, with_looks=False))
    raise LookupError(f"no reference portrait from {first} on shows enough of {part}")
