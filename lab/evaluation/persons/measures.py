"""The measures of a picture of two persons; see `lab.evaluation.measures` for those that they are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...judge import PARTS, SIDE_PX, Verdict
from ...portraits import STYLES
from ..combinations import Concept
from ..measures import THERE, THERE_GLASSES, fidelity_of, leakage, looks_like
from ..world import Mask
from .pairs import SIDES, Masks, Pair, half

Pixels = NDArray[np.float64]
Scores = dict[str, float]


def measure_pair(verdict: Verdict, wanted: Pair, masks: Masks | None) -> Scores:
    """All measures of a picture of two persons; those that do not apply are missing.

    Args:
        verdict: on the picture, by halves.
        wanted: what was asked for.
        masks: (256, 256) where each person's part was to be, by person and part, if this was said.

    Returns:
        style: whether the picture has the style that was asked for.
        persons: share of the two halves that show a face.
        fidelity: of each person's parts to that person's references, as in `measures.measure`; also by part.
        swapped: the same, to the other person's references.
        between: mean share of a person's part that has the look of the other person's and not his own.
        leakage: of a person's looks into the other regions of that person's half.
        iou: overlap of parts and masks.
    """
    pixels = verdict.pictures[0].movedim(0, -1).double().numpy() * 255
    scores: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        scores.setdefault(name, []).append(value)

    add("style", float(STYLES[int(verdict.styles[0])] == wanted.layout.style))
    for person in range(len(SIDES)):
        here = half(person, SIDE_PX)
        seen = {part: verdict.pixels_of(part)[0].numpy() & here for part in PARTS}
        add("persons", float(_is_there("face", seen["face"])))
        own, others = wanted.persons[person], wanted.persons[1 - person]
        for concept, other in zip(own, others, strict=True):
            part = concept.part
            fidelity = fidelity_to(concept, pixels, seen[part])
            add("fidelity", fidelity)
            add(f"fidelity {part}", fidelity)
            add("swapped", fidelity_to(other, pixels, seen[part]))
            if masks:
                add("iou", _iou(seen[part], masks[person, part]))
            if _is_there(part, seen[part]):
                colours = pixels[seen[part]]
                add("between", float((looks_like(colours, other) & ~looks_like(colours, concept)).mean()))
        for share in _leakage_in(here, pixels, seen, own):
            add("leakage", share)
    return {name: float(np.mean(values)) for name, values in scores.items()}


def fidelity_to(concept: Concept, pixels: Pixels, seen: Mask) -> float:
    """1 - colour distance of a part to a reference / that of unrelated drawings; 0 for an absent part."""
    if not _is_there(concept.part, seen):
        return 0.0
    return fidelity_of(pixels[seen], concept)


def _is_there(part: str, seen: Mask) -> bool:
    """Whether a figure of two has the part, of which half as many pixels are enough as in a picture of one figure."""
    return bool(seen.mean() > (THERE_GLASSES if part == "glasses" else THERE) / 2)


def _iou(seen: Mask, mask: Mask) -> float:
    step = mask.shape[0] // SIDE_PX
    wanted = mask.reshape(SIDE_PX, step, SIDE_PX, step).mean(axis=(1, 3)) > 0.5
    return float((seen & wanted).sum() / max(int((seen | wanted).sum()), 1))


def _leakage_in(here: Mask, pixels: Pixels, seen: dict[str, Mask], concepts: Sequence[Concept]) -> list[float]:
    """Shares of the regions in a half of the picture that have the looks of a person's other parts."""
    columns = here[0]
    in_half = {part: mask[:, columns] for part, mask in seen.items()}
    return [share for concept in concepts for share in leakage(pixels[:, columns], in_half, concept, concepts)]
