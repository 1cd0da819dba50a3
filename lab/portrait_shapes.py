"""Figures with many shapes of face, hair, clothes and hats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import Generator

from .portrait_drawing import Canvas, Filling, Mask, Point, darker

Fills = Mapping[str, Filling]
_LIPS, _WHITE, _PUPIL = (170, 50, 56), (250, 250, 250), (30, 30, 36)


class Figure:
    """One figure of random position, size and shapes.

    Args:
        rng: for position, size and shapes.
        canvas: to draw on.
        across: range of the centre of its head, in shares of the canvas's width.
        size: range of half its head's width, in shares of the canvas's width.
    """

    def __init__(
        self,
        rng: Generator,
        canvas: Canvas,
        across: tuple[float, float],
        size: tuple[float, float],
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

    def draw(self, fills: Fills, worn: Sequence[str]) -> None:
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

    def _paint(self, part: str, fills: Fills, kind: str, points: Sequence[Point], *more: float) -> None:
        self._canvas.paint(part, self._canvas.shape(kind, points, *more), fills[part])

    def _curve(
        self,
        box: tuple[float, float, float, float],
        square: float = 2.0,
        taper: float = 0.0,
        turn: float = 0.0,
        bumps: int = 0,
    ) -> list[Point]:
        """The corners of a smooth closed curve.

        Args:
            box: left, top, right, bottom.
            square: 2 for an ellipse, more for a rounded rectangle.
            taper: how much narrower it is at the bottom.
            turn: clockwise, in radians.
            bumps: number of curls along it.
        """
        left, top, right, bottom = box
        angle = np.linspace(0, 2 * np.pi, 73)[:-1]
        x, y = (np.sign(side) * np.abs(side) ** (2 / square) for side in (np.cos(angle), np.sin(angle)))
        far = 1 + (0.13 * np.abs(np.sin(bumps * angle / 2)) if bumps else 0)
        x, y = x * far * (1 - taper * y.clip(0)) * (right - left) / 2, y * far * (bottom - top) / 2
        x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
        centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
        return [self._at(a, b) for a, b in zip(centre_x + x, centre_y + y, strict=True)]

    def _corners(self, *corners: Point) -> list[Point]:
        return [self._at(x, y) for x, y in corners]

    def _smooth(self, part: str, fills: Fills, box: tuple[float, float, float, float], **how: float) -> None:
        self._paint(part, fills, "polygon", self._curve(box, **how))  # type: ignore[arg-type]

    def _choice(self, *kinds: str) -> str:
        return str(self._rng.choice(kinds))

    def _long_hair(self, fills: Fills) -> None:
        top, kind = -self._tall - 0.15, self._choice("none", "long", "straight", "bob", "curls", "tails", "bun")
        down = self._rng.uniform(1.5, 2.3)
        if kind == "long":
            self._smooth("hair", fills, (-1.35, top, 1.35, down))
        elif kind == "straight":
            self._smooth("hair", fills, (-1.25, top, 1.25, down), square=5)
        elif kind == "bob":
            self._smooth("hair", fills, (-1.45, top, 1.45, 0.95), square=3)
        elif kind == "curls":
            self._smooth("hair", fills, (-1.3, top - 0.05, 1.3, 1.3), bumps=int(self._rng.integers(11, 16)))
        elif kind == "tails":
            out, low = self._rng.uniform(0.45, 0.7), self._rng.uniform(0.9, 1.5)
            for side in (-1, 1):
                centre = side * (1.05 + out / 2)
                self._smooth("hair", fills, (centre - out / 2, -0.35, centre + out / 2, low), turn=-0.25 * side)
        elif kind == "bun":
            wide = self._rng.uniform(0.4, 0.6)
            self._smooth("hair", fills, (-wide, top - 1.4 * wide, wide, top + 0.6 * wide))

    def _shirt(self, fills: Fills) -> None:
        wide, top, kind = (
            self._rng.uniform(1.7, 2.3),
            1.45 * self._tall,
            self._choice("round", "square", "sloped", "open"),
        )
        if kind == "square":
            self._smooth("shirt", fills, (-wide, top + 0.1, wide, top + 6), square=4)
        elif kind == "sloped":
            corners = ((-0.45, top - 0.1), (0.45, top - 0.1), (wide, top + 0.7), (wide + 0.3, 9), (-wide - 0.3, 9))
            self._paint("shirt", fills, "polygon", self._corners(*corners, (-wide, top + 0.7)))
        else:
            self._smooth("shirt", fills, (-wide, top, wide, 6))
        if kind == "open":
            deep = top + self._rng.uniform(0.5, 0.9)
            neck = self._corners((-0.4, top - 0.1), (0.4, top - 0.1), (0, deep))
            self._canvas.paint("face", self._canvas.shape("polygon", neck), darker(fills["face"]))

    def _face(self, skin: Filling) -> None:
        tall, canvas, rng = self._tall, self._canvas, self._rng
        canvas.paint("face", canvas.shape("rectangle", self._box(-0.38, 0.7, 0.38, 1.55 * tall)), darker(skin))
        for ear in (-1.0, 1.0):
            canvas.paint("face", canvas.shape("ellipse", self._box(ear - 0.17, -0.25, ear + 0.17, 0.28)), darker(skin))
        head = self._curve((-1, -tall, 1, tall), square=rng.uniform(2, 2.7), taper=rng.uniform(0, 0.28))
        canvas.paint("face", canvas.shape("polygon", head), skin)
        self._eyes()
        nose, wide = rng.uniform(0.3, 0.45), rng.uniform(0.08, 0.14)
        canvas.paint("face", canvas.shape("ellipse", self._box(-wide, nose - 0.16, wide, nose)), darker(skin))
        self._mouth()

    def _eyes(self) -> None:
        rng, canvas = self._rng, self._canvas
        wide, high, apart = rng.uniform(0.15, 0.22), rng.uniform(0.13, 0.19), rng.uniform(0.36, 0.44)
        aside = rng.uniform(-0.05, 0.05)
        for x in (-apart, apart):
            white, pupil = self._box(x - wide, -0.14 - high, x + wide, -0.14 + high), 0.72 * high
            canvas.paint(None, canvas.shape("ellipse", white), _WHITE)
            seen = self._box(x + aside - pupil, -0.14 - pupil, x + aside + pupil, -0.14 + pupil)
            canvas.paint(None, canvas.shape("ellipse", seen), _PUPIL)

    def _mouth(self) -> None:
        low, wide, canvas = 0.62 * self._tall, self._rng.uniform(0.25, 0.45), self._canvas
        kind = self._choice("smile", "open", "small")
        if kind == "smile":
            area = canvas.shape("chord", self._box(-wide, low - 0.3, wide, low + 0.16), 10, 170)
        elif kind == "open":
            area = canvas.shape("ellipse", self._box(-0.6 * wide, low - 0.14, 0.6 * wide, low + 0.14))
        else:
            area = canvas.shape("rounded_rectangle", self._box(-0.7 * wide, low - 0.05, 0.7 * wide, low + 0.05), 3)
        canvas.paint(None, area, _LIPS)

    def _fringe(self, fills: Fills) -> None:
        tall, rng, canvas = self._tall, self._rng, self._canvas
        low, tilt = rng.uniform(-0.66, -0.42), rng.uniform(-0.3, 0.3)
        kind = self._choice("round", "side", "straight", "teeth")
        cap = canvas.shape("polygon", self._curve((-1.13, -tall - 0.2, 1.13, tall), square=2.2))
        above: Mask = canvas.shape("polygon", self._corners((-2, -3), (2, -3), (2, low), (-2, low)))
        if kind == "round":
            above &= ~canvas.shape("ellipse", self._box(-0.9, low - 0.25, 0.9, tall))
        elif kind == "side":
            above = canvas.shape("polygon", self._corners((-2, -3), (2, -3), (2, low - tilt), (-2, low + tilt)))
            part = 0.95 * np.sign(tilt)
            above &= ~canvas.shape("ellipse", self._box(-0.95 - part, low - 0.3, 0.95 - part, tall))
        elif kind == "teeth":
            teeth = np.linspace(1.2, -1.2, 2 * int(rng.integers(4, 7)) + 1)
            zigzag = [(float(x), low + (0.1 if i % 2 else -0.2)) for i, x in enumerate(teeth)]
            above = canvas.shape("polygon", self._corners((-2, -3), (2, -3), (2, low - 0.2), *zigzag, (-2, low - 0.2)))
        canvas.paint("hair", cap & above, fills["hair"])

    def _scarf(self, fills: Fills) -> None:
        top, x, length = self._tall * 0.95, self._rng.uniform(-0.6, 0.2), self._rng.uniform(0.9, 1.6)
        kind = self._choice("wound", "two ends", "kerchief")
        if kind == "kerchief":
            corners = ((-0.95, top + 0.2), (0.95, top + 0.2), (0.5 * x, top + length + 0.2))
            self._paint("scarf", fills, "polygon", self._corners(*corners))
        else:
            ends = (-0.7, 0.08) if kind == "two ends" else (x,)
            for left in ends:
                self._smooth("scarf", fills, (left, top + 0.2, left + 0.65, top + length), square=7, turn=-0.15 * left)
        self._smooth("scarf", fills, (-0.98, top, 0.98, top + 0.75), square=3.5)

    def _glasses(self, fills: Fills) -> None:
        across, high = self._rng.uniform(0.3, 0.38), self._rng.uniform(0.24, 0.34)
        square, taper, turn = {
            "round": (2.0, 0.0, 0.0),
            "square": (6.0, 0.0, 0.0),
            "soft": (3.2, 0.25, 0.0),
            "pointed": (2.4, 0.1, 0.3),
        }[self._choice("round", "square", "soft", "pointed")]
        for side in (-1, 1):
            box = (side * 0.42 - across, -0.15 - high, side * 0.42 + across, -0.15 + high)
            self._smooth("glasses", fills, box, square=square, taper=taper, turn=-turn * side)
        self._paint("glasses", fills, "rectangle", self._box(-1.0, -0.24, 1.0, -0.12))

    def _hat(self, fills: Fills) -> None:
        rng, tall = self._rng, self._tall
        rim, high, wide = -tall * rng.uniform(0.45, 0.62), rng.uniform(0.9, 1.4), rng.uniform(1.08, 1.22)
        kind = self._choice("dome", "top", "cone", "beret", "cap", "beanie", "sun", "crown")
        side = 1 if rng.random() < 0.5 else -1
        if kind in ("dome", "cap", "sun", "beanie"):
            self._paint("hat", fills, "pieslice", self._box(-wide, rim - high, wide, rim + high), 180, 360)
        if kind == "top":
            corners = ((-0.9, rim - high * 1.1), (0.9, rim - high * 1.1), (0.8 * wide, rim), (-0.8 * wide, rim))
            self._paint("hat", fills, "polygon", self._corners(*corners))
        elif kind == "cone":
            self._paint(
                "hat", fills, "polygon", self._corners((-wide, rim), (wide, rim), (0.2 * side, rim - high * 1.5))
            )
        elif kind == "beret":
            box = (0.18 * side - 1.4, rim - 0.95, 0.18 * side + 1.4, rim + 0.2)
            self._smooth("hat", fills, box, square=2.3, turn=0.12 * side)
        elif kind == "cap":
            box = (min(0, side * 1.9), rim - 0.2, max(0, side * 1.9), rim + 0.16)
            self._smooth("hat", fills, box, square=2.5)
        elif kind == "beanie":
            self._smooth("hat", fills, (-0.3, rim - high - 0.4, 0.3, rim - high + 0.2))
            self._smooth("hat", fills, (-wide - 0.04, rim - 0.36, wide + 0.04, rim + 0.1), square=5)
        elif kind == "crown":
            tips = np.linspace(-1.1, 1.1, 2 * int(rng.integers(3, 5)) + 1)
            zigzag = [(float(x), rim - high * (0.45 if i % 2 else 1.0)) for i, x in enumerate(tips)]
            self._paint("hat", fills, "polygon", self._corners((-1.0, rim), *zigzag, (1.0, rim)))
        if kind in ("top", "sun") or (kind in ("dome", "cone") and rng.random() < 0.5):
            brim = rng.uniform(1.75, 2.2) if kind == "sun" else rng.uniform(1.4, 1.75)
            self._paint("hat", fills, "ellipse", self._box(-brim, rim - 0.2, brim, rim + 0.2))
