"""What a picture is worth, by the judge's pixels; colours are in 0..255."""

from __future__ import annotations

import colorsys
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..judge import PARTS, SIDE_PX, Verdict
from ..portraits import PATTERNS, WORN, palette_of
from .combinations import Combination, Concept

if TYPE_CHECKING:
    from .studio import Made

Colours = NDArray[np.float64]  # (n, 3)

# A part is there if it has this share of the picture.
THERE, THERE_GLASSES = 0.006, 0.002
WORST = 128.0  # colour distance at which nothing is left of a look
ALIKE = 40.0  # distance within which a pixel could be of a look
_QUANTILES = np.linspace(0.02, 0.98, 25)
_BINS, _HUES, _GREY = 4, 12, 0.2


def measure(verdict: Verdict, made: Made, wanted: Combination) -> dict[str, float]:
    """All measures of one picture; nan where one does not apply.

    Returns:
        prompt: share of the asked parts that are there and of the other wearable ones that are not, 0..1.
        fidelity: 1 - colour distance / 128 of each concept to its reference, 0 where it is not there; mean.
        colour: colour distance of the concepts that are there, 0..255.
        histogram, hue: total variation of colour histograms and of hues, 0..1.
        pattern: share of the concepts whose pattern is the reference's.
        leakage: share of the other pixels that have a concept's look and should not; mean over concepts.
        iou, iou_steps: of the method's regions with the judge's parts: at the last step, and mean over steps.
    """
    pixels = verdict.pictures[0].movedim(0, -1).double().numpy() * 255
    seen = {part: verdict.pixels_of(part)[0].numpy() for part in PARTS}
    there = {part: bool(mask.mean() > (THERE_GLASSES if part == "glasses" else THERE)) for part, mask in seen.items()}
    judged = wanted.asked | set(WORN)
    scores: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        scores.setdefault(name, []).append(value)

    for part in sorted(judged):
        add("prompt", float(there[part] == (part in wanted.asked)))
    for concept in wanted.concepts:
        add("leakage", leakage(pixels, seen, concept, wanted))
        if not there[concept.part]:
            add("fidelity", 0.0)
            continue
        own, reference = pixels[seen[concept.part]], reference_colours(concept)
        distance = colour_distance(own, reference)
        add("colour", distance)
        add("fidelity", max(0.0, 1 - distance / WORST))
        add("histogram", total_variation(colour_histogram(own), colour_histogram(reference)))
        add("hue", total_variation(hue_histogram(own), hue_histogram(reference)))
        patterns = verdict.patterns[0][:, verdict.pixels_of(concept.part)[0]].mean(1)
        add("pattern", float(PATTERNS[int(patterns.argmax())] == concept.portrait.looks[concept.part].pattern))
    if made.regions:
        by_step = [region_iou(regions, verdict, made, wanted) for regions in made.regions]
        add("iou", by_step[-1])
        add("iou_steps", float(np.mean(by_step)))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def reference_colours(concept: Concept) -> Colours:
    """The pixels of a concept in its reference, at the judge's size."""
    picture = torch.from_numpy(concept.portrait.picture).movedim(-1, 0)[None].double()
    mask = torch.from_numpy(concept.portrait.masks[concept.part])[None, None].double()
    small, share = (F.interpolate(x, (SIDE_PX, SIDE_PX), mode="area") for x in (picture, mask))
    return small[0].movedim(0, -1)[share[0, 0] > 0.5].numpy()


def colour_distance(one: Colours, other: Colours) -> float:
    """Mean over red, green and blue of the Wasserstein distance of two sets of pixels, 0..255."""
    return float(np.abs(np.quantile(one, _QUANTILES, axis=0) - np.quantile(other, _QUANTILES, axis=0)).mean())


def colour_histogram(colours: Colours) -> NDArray[np.float64]:
    """Shares of 4 x 4 x 4 cells of colour."""
    cells = (colours.clip(0, 255.9) * _BINS // 256).astype(int) @ (_BINS**2, _BINS, 1)
    return np.bincount(cells, minlength=_BINS**3) / len(colours)


def hue_histogram(colours: Colours) -> NDArray[np.float64]:
    """Shares of 12 hues, and of grey."""
    hues = [_hue(*pixel) for pixel in (colours.clip(0, 255) // 8 * 8).astype(int).tolist()]
    return np.bincount(hues, minlength=_HUES + 1) / len(colours)


@cache
def _hue(red: int, green: int, blue: int) -> int:
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    return _HUES if saturation * value < _GREY else int(hue * _HUES) % _HUES


def total_variation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Half the sum of differences of two histograms, 0..1."""
    return float(np.abs(one - other).sum() / 2)


def looks_like(colours: Colours, concept: Concept) -> NDArray[np.bool_]:
    """(n,) which colours are near one of a reference's own."""
    look, pixels = concept.portrait.looks[concept.part], reference_colours(concept)
    named = [palette_of(concept.part)[name] for name in (look.colour, look.second) if name]
    nearest = np.linalg.norm(pixels[:, None] - np.array(named, float), axis=-1).argmin(1)
    own = [np.median(pixels[nearest == index], axis=0) for index in range(len(named)) if (nearest == index).any()]
    near: NDArray[np.bool_] = (np.linalg.norm(colours[:, None] - np.array(own), axis=-1) < ALIKE).any(1)
    return near


def leakage(pixels: NDArray[np.float64], seen: dict[str, NDArray[np.bool_]], of: Concept, wanted: Combination) -> float:
    """Share of the pixels outside a concept that have its look; what their own reference explains is none."""
    others = ~seen[of.part]
    leaked = np.zeros(others.shape, bool)
    leaked[others] = looks_like(pixels[others], of)
    for concept in wanted.concepts:
        own = leaked & seen[concept.part]
        if concept is not of and own.any():
            leaked[own] = ~looks_like(pixels[own], concept)
    return float(leaked.sum() / max(others.sum(), 1))


def region_iou(regions: Tensor, verdict: Verdict, made: Made, wanted: Combination) -> float:
    """Mean over the concepts of the overlap of a region with the judge's pixels; 0 where the part is not there."""
    values = []
    for concept in wanted.concepts:
        region = regions == made.concepts.index(concept.part)
        share = F.interpolate(verdict.pixels_of(concept.part)[:, None].double(), tuple(regions.shape), mode="area")
        part = share[0, 0] >= min(0.5, max(float(share.max()) / 2, 1e-6))
        values.append(float((region & part).sum() / max(int((region | part).sum()), 1)))
    return float(np.mean(values))
