"""How a portrait is drawn: a canvas that tracks each part's visible pixels, and a figure made of shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
_SHADE = (0.86, 0.82, 0.8)  # factors that darken neck and ears


class Canvas:
    """A picture that parts are painted on; a part below another loses its pixels.

    Args:
        rng: for the finish.
        side: in pixels.
        style: of its finish.
    """

    def __init__(self, rng: Generator, side: int, style: Style = "flat") -> None:
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
            "checked": lambda: ((u % 1) < 0.5) ^ ((v % 1) < 0.5),
        }[pattern]()
        return np.where(inside[:, None], second, first)

    return at


def darker(fill: Filling) -> Filling:
    """A filling in shade."""
    return lambda y, x: fill(y, x) * np.asarray(_SHADE)


class Figure:
    """One figure; its position, size and shapes are random.

    Args:
        rng: for all of these.
        canvas: to draw on.
        across: range of the centre of its head, in shares of the canvas's width.
        size: range of half its head's width, in shares of the canvas's width.
    """

    def __init__(
        self,
        rng: Generator,
        canvas: Canvas,
        across: tuple[float, float] = (0.26, 0.74),
        size: tuple[float, float] = (0.14, 0.24),
    ) -> None:
        self._rng, self._canvas = rng, canvas
        self.unit = canvas.side * rng.uniform(*size)
        self._tall = rng.uniform(1.1, 1.35)
        self._x, self._y = canvas.side * rng.uniform(*across), canvas.side * rng.uniform(0.38, 0.58)

    def _at(self, x: float, y: float) -> Point:
        """A point that is given relative to the head's centre, in half head widths."""
        return self._x + x * self.unit, self._y + y * self.unit

    def _box(self, left: float, top: float, right: float, bottom: float) -> list[Point]:
        return [self._at(left, top), self._at(right, bottom)]

    def draw(self, fills: Mapping[str, Filling], worn: Sequence[str]) -> None:
        """Paint it from back to front.

        Args:
            fills: the filling of each part.
            worn: which of hat, glasses and scarf it has.
        """
        self._long_hair(fills)
        self._shirt(fills)
        self._face(fills["face"])
        self._fringe(fills)
        for part, wear in (("scarf", self._scarf), ("glasses", self._glasses), ("hat", self._hat)):
            if part in worn:
                wear(fills)

    def _paint(self, part: str, fills: Mapping[str, Filling], kind: str, points: Sequence[Point], *more: float) -> None:
        self._canvas.paint(part, self._canvas.shape(kind, points, *more), fills[part])

    def _long_hair(self, fills: Mapping[str, Filling]) -> None:
        if self._rng.random() < 0.5:
            self._paint("hair", fills, "ellipse", self._box(-1.35, -self._tall - 0.15, 1.35, 1.9))

    def _shirt(self, fills: Mapping[str, Filling]) -> None:
        wide = self._rng.uniform(1.7, 2.3)
        self._paint("shirt", fills, "ellipse", self._box(-wide, 1.45 * self._tall, wide, 6))

    def _face(self, skin: Filling) -> None:
        tall, canvas = self._tall, self._canvas

        shade = darker(skin)
        canvas.paint("face", canvas.shape("rectangle", self._box(-0.38, 0.7, 0.38, 1.6 * tall)), shade)
        for ear in (-1.0, 1.0):
            canvas.paint("face", canvas.shape("ellipse", self._box(ear - 0.15, -0.25, ear + 0.15, 0.25)), shade)
        canvas.paint("face", canvas.shape("ellipse", self._box(-1, -tall, 1, tall)), skin)
        eye, mouth = self._rng.uniform(0.13, 0.2), self._rng.uniform(0.25, 0.45)
        for x in (-0.4, 0.4):
            canvas.paint(None, canvas.shape("ellipse", self._box(x - eye, -0.3, x + eye, 0.02)), (250, 250, 250))
            canvas.paint(None, canvas.shape("ellipse", self._box(x - eye / 2, -0.26, x + eye / 2, -0.02)), (30, 30, 36))
        smile = self._box(-mouth, 0.35 * tall, mouth, 0.7 * tall)
        canvas.paint(None, canvas.shape("chord", smile, 10, 170), (170, 50, 56))

    def _fringe(self, fills: Mapping[str, Filling]) -> None:
        tall, low, canvas = self._tall, self._rng.uniform(-0.62, -0.42), self._canvas
        cap = canvas.shape("ellipse", self._box(-1.12, -tall - 0.18, 1.12, tall))
        above = canvas.shape("rectangle", self._box(-2, -3, 2, low))
        forehead = canvas.shape("ellipse", self._box(-0.9, low - 0.25, 0.9, tall))
        canvas.paint("hair", cap & above & ~forehead, fills["hair"])

    def _scarf(self, fills: Mapping[str, Filling]) -> None:
        top, x, length = self._tall * 0.95, self._rng.uniform(-0.6, 0.2), self._rng.uniform(0.9, 1.6)
        around = self._box(-0.95, top, 0.95, top + 0.62)
        self._paint("scarf", fills, "rounded_rectangle", around, 0.25 * self.unit)
        self._paint("scarf", fills, "rectangle", self._box(x, top + 0.3, x + 0.5, top + length))

    def _glasses(self, fills: Mapping[str, Filling]) -> None:
        across, high = self._rng.uniform(0.3, 0.38), self._rng.uniform(0.24, 0.34)
        lens = str(self._rng.choice(["ellipse", "rectangle"]))
        for x in (-0.42, 0.42):
            self._paint("glasses", fills, lens, self._box(x - across, -0.15 - high, x + across, -0.15 + high))
        self._paint("glasses", fills, "rectangle", self._box(-1.0, -0.24, 1.0, -0.12))

    def _hat(self, fills: Mapping[str, Filling]) -> None:
        rim = -self._tall * self._rng.uniform(0.45, 0.62)
        high, wide = self._rng.uniform(0.9, 1.5), self._rng.uniform(1.0, 1.2)
        kind = self._rng.choice(["dome", "top", "cone"])
        if kind == "dome":
            self._paint("hat", fills, "pieslice", self._box(-wide, rim - high, wide, rim + high), 180, 360)
        elif kind == "top":
            self._paint("hat", fills, "rectangle", self._box(-wide * 0.85, rim - high, wide * 0.85, rim))
        else:
            corners = [self._at(-wide, rim), self._at(wide, rim), self._at(0, rim - high * 1.5)]
            self._paint("hat", fills, "polygon", corners)
        if kind == "top" or self._rng.random() < 0.5:
            brim = self._rng.uniform(1.4, 1.9)
            self._paint("hat", fills, "ellipse", self._box(-brim, rim - 0.16, brim, rim + 0.2))
