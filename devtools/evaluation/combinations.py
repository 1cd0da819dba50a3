"""What is asked for: a prompt without looks, and references that alone can give them."""

from __future__ import annotations

from dataclasses import dataclass

from ..judge import PARTS
from ..portraits import WORN, Portrait, caption_of, draw_portrait, generator_of

MOST_CONCEPTS = 3
SMALLEST = {"glasses": 0.006}  # share of the reference picture that a concept has at least
SMALLEST_OTHER = 0.02
_CHOICES, _REFERENCES = 1 << 33, 16  # seeds of the choices; portraits set aside for each reference


@dataclass(frozen=True, eq=False)
class Concept:
    """One concept and the drawing that shows it.

    Attributes:
        part: its name, which is also its phrase in the prompt.
        portrait: of the "reference" split.
        caption: what the portrait shows, without looks.
    """

    part: str
    portrait: Portrait
    caption: str


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
    worn = [part for part in WORN if part in parts]
    target = draw_portrait("evaluation", number, worn=worn)
    while True:
        prompt = caption_of(target, rng, with_looks=False)
        if set(parts) <= set(prompt.replace(",", "").split()):
            return Combination(number, prompt, concepts)


def _concept(part: str, place: int) -> Concept:
    """The first of a reference's portraits that shows enough of the part."""
    for number in range(place * _REFERENCES, (place + 1) * _REFERENCES):
        rng = generator_of("reference", _CHOICES + number)
        worn = [other for other, share in WORN.items() if other == part or rng.random() < share]
        portrait = draw_portrait("reference", number, worn=worn)
        if part in portrait.masks and portrait.masks[part].mean() > SMALLEST.get(part, SMALLEST_OTHER):
            return Concept(part, portrait, caption_of(portrait, rng, with_looks=False))
    raise LookupError(f"none of the reference portraits set aside for {place} shows enough of {part}")
