"""The measures of a picture, based on the judge's pixels; colours are in 0..255."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from ..judge import PARTS, SIDE_PX, Verdict
from ..portraits import LOOKS, PATTERNS, STYLES, WORN, Portrait, palette_of
from .combinations import Combination, Concept
from .world import Colours, Mask, chance_distance, colour_distance, well_placed

if TYPE_CHECKING:
    from .studio import Made

# A part is present if it covers more than this share of the picture.
THERE, THERE_GLASSES = 0.006, 0.002
ALIKE = 30.0  # largest distance of a pixel from a colour that may be its own
_EDGE = 7  # pixels: size of the box in which a concept's edge may be blurred or misjudged
_BINS, _HUES, _GREY = 4, 12, 0.2


def measure(verdict: Verdict, made: Made, wanted: Combination) -> dict[str, float]:
    """All measures of a picture; those that do not apply are missing.

    Returns:
        style: whether the picture has the style that was asked for: 0 or 1.
        prompt: share of the parts in question that are right: asked for and present, or wearable, not asked for and
            absent; 0..1.
        fidelity: mean over the concepts of 1 - colour distance to the reference / that of unrelated drawings: 0 is
            chance, 1 the reference drawn in the style that was asked for; an absent part counts 0. Also by part, and
            for looks seen in training or not.
        leakage: mean over concepts and the picture's other regions, including the background, of the share of
            pixels that have the concept's look and should not.
        layout: share of the parts whose position and size, relative to the face, are as in true drawings.
        iou, iou_steps: of the method's regions with the judge's parts: at the last step, and the mean over steps.
        colour: colour distance of the concepts that are present, 0..255.
        histogram, hue: total variation of their colour histograms and of their hues, 0..1.
        pattern: share of the parts with a pattern whose pattern is that of the reference.
        moved: mean distance of the concepts' centres from those in their references, in shares of the picture's width.
    """
    pixels, masks = pixels_and_masks(verdict)
    seen = parts_seen(masks)
    scores: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        scores.setdefault(name, []).append(value)

    add("style", float(STYLES[int(verdict.styles[0])] == wanted.style))
    for part in sorted(wanted.required_parts | set(WORN)):
        add("prompt", float((part in seen) == (part in wanted.required_parts)))
    placed = well_placed(seen)
    if not np.isnan(placed):
        add("layout", placed)
    for concept in wanted.concepts:
        part = concept.part
        for share in leakage(pixels, masks, concept, wanted.concepts):
            add("leakage", share)
        own, reference = pixels[masks[part]], reference_colours(concept)
        fidelity = fidelity_of(own, concept) if part in seen else 0.0
        for name in ("fidelity", f"fidelity {part}", f"fidelity {'held out' if concept.held_out else 'seen'}"):
            add(name, fidelity)
        if part not in seen:
            continue
        add("moved", float(np.linalg.norm(centre(masks[part]) - centre(concept.views[0].portrait.masks[part]))))
        add("colour", colour_distance(own, reference))
        add("histogram", total_variation(colour_histogram(own), colour_histogram(reference)))
        add("hue", total_variation(hue_histogram(own), hue_histogram(reference)))
        if LOOKS[part][0] < 1:
            patterns = verdict.patterns[0][:, verdict.pixels_of(part)[0]].mean(1)
            add("pattern", float(PATTERNS[int(patterns.argmax())] == concept.look.pattern))
    if made.regions:
        by_step = [region_iou(regions, verdict, made, wanted) for regions in made.regions]
        add("iou", by_step[-1])
        add("iou_steps", float(np.mean(by_step)))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def pixels_and_masks(verdict: Verdict) -> tuple[NDArray[np.float64], dict[str, Mask]]:
    """(h, w, 3) in 0..255 the judged picture, and (h, w) where the judge sees each part, at the judge's size."""
    pixels = verdict.pictures[0].movedim(0, -1).double().numpy() * 255
    return pixels, {part: verdict.pixels_of(part)[0].numpy() for part in PARTS}


def parts_seen(masks: Mapping[str, Mask]) -> dict[str, Mask]:
    """The masks of the parts that are present."""
    return {part: mask for part, mask in masks.items() if mask.mean() > (THERE_GLASSES if part == "glasses" else THERE)}


def centre(mask: Mask) -> NDArray[np.float64]:
    """(2,) the centre of a mask, down and right, in shares of its sides."""
    middle: NDArray[np.float64] = np.argwhere(mask).mean(axis=0) / mask.shape
    return middle


def reference_colours(concept: Concept) -> Colours:
    """The colours of a concept's pixels in its reference, drawn in the picture's style, at the judge's size."""
    return colours_of(concept.ideal, concept.part)


def fidelity_of(colours: Colours, concept: Concept) -> float:
    """1 - distance of colours (n, 3) to those of a reference / that of unrelated drawings in the same style."""
    chance = chance_distance(concept.part, concept.ideal.style)
    return 1 - colour_distance(colours, reference_colours(concept)) / chance


def colours_of(portrait: Portrait, part: str) -> Colours:
    """(n, 3) the colours of a part's pixels at the judge's size."""
    picture = torch.from_numpy(portrait.picture).movedim(-1, 0)[None].double()
    mask = torch.from_numpy(portrait.masks[part])[None, None].double()
    small, share = (F.interpolate(x, (SIDE_PX, SIDE_PX), mode="area") for x in (picture, mask))
    return small[0].movedim(0, -1)[share[0, 0] > 0.5].numpy()


def colour_histogram(colours: Colours) -> NDArray[np.float64]:
    """(64,) shares of 4 x 4 x 4 cells of colour."""
    cells = (colours.clip(0, 255.9) * _BINS // 256).astype(int) @ (_BINS**2, _BINS, 1)
    return np.bincount(cells, minlength=_BINS**3) / len(colours)


def hue_histogram(colours: Colours) -> NDArray[np.float64]:
    """(13,) shares of 12 hues, and of grey."""
    hues = [_hue(*pixel) for pixel in (colours.clip(0, 255) // 8 * 8).astype(int).tolist()]
    return np.bincount(hues, minlength=_HUES + 1) / len(colours)


@cache
def _hue(red: int, green: int, blue: int) -> int:
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    return _HUES if saturation * value < _GREY else int(hue * _HUES) % _HUES


def total_variation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Half the sum of differences of two histograms, 0..1."""
    return float(np.abs(one - other).sum() / 2)


def looks_like(colours: Colours, concept: Concept) -> Mask:
    """(n,) bool: which colours are near one of a reference's colours."""
    pixels = reference_colours(concept)
    named = [palette_of(concept.part)[name] for name in (concept.look.colour, concept.look.second) if name]
    nearest = np.linalg.norm(pixels[:, None] - np.array(named, float), axis=-1).argmin(1)
    own = [np.median(pixels[nearest == index], axis=0) for index in range(len(named)) if (nearest == index).any()]
    near: Mask = (np.linalg.norm(colours[:, None] - np.array(own), axis=-1) < ALIKE).any(1)
    return near


def leakage(
    pixels: NDArray[np.float64], masks: dict[str, Mask], of: Concept, concepts: Sequence[Concept]
) -> list[float]:
    """For each other region, the share of its pixels that have a concept's look.

    Regions are the other parts and the background, without the pixels next to the concept. A look that a region's own
    reference, one of those of `concepts`, has is not leakage.
    """
    beside = np.asarray(Image.fromarray(masks[of.part]).convert("L").filter(ImageFilter.MaxFilter(_EDGE))) > 0
    references = {concept.part: concept for concept in concepts}
    background = ~np.any(list(masks.values()), axis=0)
    shares = []
    for part, mask in {**masks, "background": background}.items():
        colours = pixels[mask & ~beside]
        if part == of.part or len(colours) < THERE_GLASSES * beside.size:
            continue
        leaked = looks_like(colours, of)
        if part in references:
            leaked &= ~looks_like(colours, references[part])
        shares.append(float(leaked.mean()))
    return shares


def region_iou(regions: Tensor, verdict: Verdict, made: Made, wanted: Combination) -> float:
    """Mean over the concepts of the IoU of a region with the judge's pixels; 0 for an absent part."""
    values = []
    for concept in wanted.concepts:
        region = regions == made.concepts.index(concept.part)
        share = F.interpolate(verdict.pixels_of(concept.part)[:, None].double(), tuple(regions.shape), mode="area")
        part = share[0, 0] >= min(0.5, max(float(share.max()) / 2, 1e-6))
        values.append(float((region & part).sum() / max(int((region | part).sum()), 1)))
    return float(np.mean(values))
