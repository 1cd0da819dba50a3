"""How a portrait is drawn: a canvas that tracks each part's visible pixels, and what parts are filled with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .finishes import FINISHES, Style, box

Colour = tuple[int, int, int]
# The colours, (n, 3), at n pixels (y, x) of the canvas; or one colour, (3,), for all of them.
Filling = Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray[np.float64]]
Mask = NDArray[np.bool_]
Point = tuple[float, float]

_JITTER = 8.0
_CHECKS = 1.4  # their period, in that of stripes: a square, short in both directions, shows less well than a stripe
_SHADE = (0.86, 0.82, 0.8)  # factors that darken neck and ears


class Canvas:
    """A picture that parts are painted on; a part below another loses its pixels.

    Args:
        rng: for the finish.
        side: in pixels.
        style: of its finish.
    """

    def __init__(self, rng: Generator, side: int, style: Style) -> None:
        self.side = side
        self._finish = FINISHES[style](rng, side)
        self._pixels = self._finish.ground()
        self._labels: NDArray[np.uint8] = np.zeros((side, side), np.uint8)
        self._parts: list[str] = []  # part l - 1 has label l

    def shape(self, kind: str, points: Sequence[Point], *more: float) -> Mask:
        """(side, side) bool: the pixels that a shape of pillow's ImageDraw fills.

        Args:
            kind: the method of ImageDraw, such as "ellipse".
            points: its corners.
            more: the method's next arguments: angles, or a radius.
        """
        image = Image.new("1", (self.side, self.side), 0)
        getattr(ImageDraw.Draw(image), kind)(list(points), *more, fill=1)
        return np.asarray(image).copy()

    def paint(self, part: str | None, area: Mask, fill: Filling | Colour) -> None:
        """Paint an area. If part is None, its pixels stay those of the parts below."""
        if not area.any():
            return
        rows, columns = box(area)
        y, x = np.nonzero(area[rows, columns])
        colours = fill(y + rows.start, x + columns.start) if callable(fill) else np.array(fill, float)
        self._finish.paint(self._pixels, area, colours)
        if part is not None:
            if part not in self._parts:
                self._parts.append(part)
            self._labels[area] = self._parts.index(part) + 1

    def finished(self) -> tuple[NDArray[np.uint8], dict[str, Mask]]:
        """The picture, (side, side, 3), and the visible pixels of each part, (side, side)."""
        pixels, labels = self._finish.finished(self._pixels, self._labels)
        return pixels.clip(0, 255).astype(np.uint8), {part: labels == i for i, part in enumerate(self._parts, 1)}


def near(rng: Generator, colour: Colour) -> NDArray[np.float64]:
    """(3,) a random colour near the given one."""
    return np.asarray(colour) + rng.normal(0, _JITTER, 3)


def filling(pattern: str, colours: Sequence[NDArray[np.float64]], period: float, angle: float) -> Filling:
    """A pattern of two colours with a period in pixels and an angle in radians; plain with one colour."""
    if len(colours) == 1:
        return lambda y, x: colours[0]
    first, second = colours

    def at(y: NDArray[np.intp], x: NDArray[np.intp]) -> NDArray[np.float64]:
        u = (x * np.cos(angle) + y * np.sin(angle)) / period
        v = (y * np.cos(angle) - x * np.sin(angle)) / period
        inside = {
            "striped": lambda: (u % 1) < 0.5,
            "dotted": lambda: np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3,
            "checked": lambda: ((u / _CHECKS % 1) < 0.5) ^ ((v / _CHECKS % 1) < 0.5),
        }[pattern]()
        return np.where(inside[:, None], second, first)

    return at


def darker(fill: Filling) -> Filling:
    """A filling in shade."""
    return lambda y, x: fill(y, x) * np.asarray(_SHADE)
