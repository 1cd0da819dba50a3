"""What true drawings look like, for the measures to compare with."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..finishes import Style
from ..judge import PARTS, SIDE_PX
from ..portraits import STYLES, Portrait, draw_portrait

DRAWINGS = 240
_FIRST = 1 << 30  # far from the numbers of the evaluation's own drawings
_DIRECTIONS = np.array(
    [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (1, -1, 0), (1, 0, -1), (0, 1, -1)], float
)  # in the space of red, green and blue
_DIRECTIONS /= np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)
_QUANTILES = np.linspace(0.02, 0.98, 25)
_WITHIN = (0.01, 0.99)

Colours = NDArray[np.float64]  # (n, 3) in 0..255
Mask = NDArray[np.bool_]


def colour_distance(one: Colours, other: Colours) -> float:
    """Sliced Wasserstein distance of two sets of colours: the mean over seven directions of colour space, 0..255."""
    quantiles = [np.quantile(colours @ _DIRECTIONS.T, _QUANTILES, axis=0) for colours in (one, other)]
    return float(np.abs(quantiles[0] - quantiles[1]).mean())


@cache
def drawings() -> list[Portrait]:
    """Drawings to compare with, at the judge's size; their styles cycle through `STYLES`."""
    return [
        draw_portrait("evaluation", _FIRST + number, size_px=SIDE_PX, style=STYLES[number % len(STYLES)])
        for number in range(DRAWINGS)
    ]


@cache
def chance_distance(part: str, style: Style) -> float:
    """Mean colour distance of a part in two unrelated drawings of a style."""
    shown = [
        p.picture[p.masks[part]].astype(float)
        for p in drawings()
        if p.style == style and part in p.masks and p.masks[part].sum() > 30
    ]
    return float(np.mean([colour_distance(one, other) for one, other in pairwise(shown)]))


def arrangement(face: Mask, part: Mask) -> NDArray[np.float64]:
    """(3,) a part's offset from the face, right and down, in face sizes; and the log of its relative size."""
    size = np.sqrt(face.sum())
    (face_y, face_x), (y, x) = (np.argwhere(mask).mean(axis=0) for mask in (face, part))
    return np.array([(x - face_x) / size, (y - face_y) / size, np.log(part.sum() / face.sum())])


@cache
def usual_arrangement(part: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3,) lower and (3,) upper ends of the ranges in which 98 % of the drawings have the numbers of `arrangement`."""
    shown = [p.masks for p in drawings() if {part, "face"} <= set(p.masks) and p.masks["face"].sum() > 30]
    low, high = np.quantile([arrangement(masks["face"], masks[part]) for masks in shown], _WITHIN, axis=0)
    return low, high


def well_placed(seen: dict[str, Mask]) -> float:
    """Share of a picture's parts whose position and size relative to the face are as in true drawings; nan if none.

    Args:
        seen: the pixels of each part; absent parts are missing.
    """
    if "face" not in seen:
        return 0.0
    judged = []
    for part in PARTS:
        if part != "face" and part in seen:
            low, high = usual_arrangement(part)
            found = arrangement(seen["face"], seen[part])
            judged.append(bool(((found >= low) & (found <= high)).all()))
    return float(np.mean(judged)) if judged else float("nan")
