"""The finishes of drawn portraits: the same shapes as flat colour, as an ink drawing, or as a watercolour."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Style = Literal["flat", "ink", "watercolour"]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.float32]  # (side, side, 3) in 0..255

# In 256ths of the picture's width:
_LINE, _SHADOW_LINE = 1.1, 2.7  # width of an ink line, and of that on the side away from the light
_HATCHED, _HATCHING, _HATCH_LINE = 9.0, 6.5, 1.7  # width of the hatched shade, distance and width of its lines
_PIGMENT_EDGE = 1.6  # width of the darker edge of a wash
_SOFT, _WOBBLE = 0.55, 0.75  # blur of a watercolour; how far a hand strays


class Flat:
    """Flat colour on a background that changes from top to bottom.

    Args:
        rng: for the background and the textures.
        side: of the canvas, in pixels.
    """

    def __init__(self, rng: Generator, side: int) -> None:
        self._rng, self._side, self._px = rng, side, side / 256

    def ground(self) -> Pixels:
        """The empty canvas."""
        top, bottom = (self._rng.integers(90, 246, 3) for _ in range(2))
        blend = np.linspace(0, 1, self._side)[:, None, None]
        pixels: Pixels = np.empty((self._side, self._side, 3), np.float32)
        pixels[:] = top * (1 - blend) + bottom * blend
        return pixels

    def paint(self, pixels: Pixels, area: Mask, colours: NDArray[np.float64]) -> None:
        """Paint an area of `pixels` in place.

        Args:
            pixels: the canvas.
            area: (side, side), not empty.
            colours: (n, 3) the colour of each of its pixels, or (3,) one colour.
        """
        where = box(area)
        pixels[where][area[where]] = colours

    def finished(self, pixels: Pixels, labels: NDArray[np.uint8]) -> tuple[Pixels, NDArray[np.uint8]]:
        """The canvas after the last area, and the (side, side) label of each of its pixels, changed alike."""
        return pixels, labels

    def _clouds(self, cells: int) -> NDArray[np.float32]:
        """(side, side) smooth noise with a mean of 0 and a std near 1; about `cells` clouds across."""
        coarse = Image.fromarray(self._rng.standard_normal((cells + 1, cells + 1)).astype(np.float32))
        return np.asarray(coarse.resize((self._side, self._side), Image.Resampling.BICUBIC)) * np.float32(1.4)

    def _wobbled(self, pixels: Pixels, labels: NDArray[np.uint8]) -> tuple[Pixels, NDArray[np.uint8]]:
        """Shift all pixels a little, as an unsteady hand does."""
        at = np.arange(self._side, dtype=np.float32)
        y, x = (
            (start + _WOBBLE * self._px * self._clouds(11)).round().clip(0, self._side - 1).astype(np.int32)
            for start in (at[:, None], at)
        )
        source = (y * self._side + x).ravel()
        moved = pixels.reshape(-1, 3).take(source, axis=0).reshape(pixels.shape)
        return moved, labels.ravel().take(source).reshape(labels.shape)


class Ink(Flat):
    """Ink lines that are thicker away from the light, hatched shade, thin colour on paper."""

    _COLOUR = 0.9  # of a part's colour, the rest is paper

    def ground(self) -> Pixels:
        """Paper, here and there a little darker."""
        self._paper = np.array((246, 240, 226)) + self._rng.normal(0, 4, 3)
        self._ink = np.array((34, 30, 38)) + self._rng.uniform(0, 14, 3)
        self._light = 1 if self._rng.random() < 0.5 else -1  # from the left, or from the right
        at = np.arange(self._side, dtype=np.float32) / (_HATCHING * 1.28 * self._px)
        self._hatching = (at[:, None] + self._light * 0.8 * at) % 1 < _HATCH_LINE / _HATCHING
        return (self._paper + 2.5 * self._clouds(5)[..., None]).astype(np.float32)

    def paint(self, pixels: Pixels, area: Mask, colours: NDArray[np.float64]) -> None:
        """Thin colour, hatching on the side away from the light, and an outline inside the area."""
        where = box(area, round(_HATCHED * self._px) + 1)
        pixels[where][area[where]] = self._paper + self._COLOUR * (colours - self._paper)
        shape, line, shadow, shade = area[where], *(round(w * self._px) for w in (_LINE, _SHADOW_LINE, _HATCHED))
        outline = shape & ~(_eroded(shape, line) & _shifted(shape, shadow, self._light * shadow))
        if min(shape.shape) > 4 * shade:  # small things have no shade
            outline |= shape & ~_shifted(shape, shade, self._light * shade) & self._hatching[where]
        pixels[where][outline] = self._ink

    def finished(self, pixels: Pixels, labels: NDArray[np.uint8]) -> tuple[Pixels, NDArray[np.uint8]]:
        """The same by an unsteady hand."""
        return self._wobbled(pixels, labels)


class Watercolour(Flat):
    """Washes of uneven pigment with darker, soft edges, on white paper."""

    _THIN, _UNEVEN, _EDGE = 0.88, 0.06, 0.78  # mean density of pigment, its std; factor on the colour at an edge

    def ground(self) -> Pixels:
        """Paper with a pale wash."""
        self._paper = np.array((251, 249, 243)) + self._rng.normal(0, 1.5, 3)
        pigment = self._THIN + self._UNEVEN * (self._clouds(7) + 0.5 * self._clouds(20))
        self._pigment = pigment.clip(0.6, 1).astype(np.float32)
        tint = self._rng.integers(120, 240, 3)
        density = (0.32 + 0.14 * self._clouds(4)).clip(0, 0.7)[..., None]
        return (self._paper + density * (tint - self._paper)).astype(np.float32)

    def paint(self, pixels: Pixels, area: Mask, colours: NDArray[np.float64]) -> None:
        """A wash: more pigment here than there, most of it at the edge."""
        where = box(area, 4)
        shape, turned = area[where], np.rot90(self._pigment, int(self._rng.integers(4)))[where]
        pixels[where][shape] = self._paper + turned[shape][:, None] * (colours - self._paper)
        pixels[where][shape & ~_eroded(shape, max(round(_PIGMENT_EDGE * self._px), 1))] *= self._EDGE

    def finished(self, pixels: Pixels, labels: NDArray[np.uint8]) -> tuple[Pixels, NDArray[np.uint8]]:
        """The same by an unsteady hand, with soft edges."""
        pixels, labels = self._wobbled(pixels, labels)
        wet = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(_SOFT * self._px))
        return np.asarray(wet).astype(np.float32), labels


FINISHES: dict[Style, type[Flat]] = {"flat": Flat, "ink": Ink, "watercolour": Watercolour}


def box(area: Mask, margin: int = 0) -> tuple[slice, slice]:
    """The smallest rows and columns with the whole area and a margin."""

    def span(filled: Mask) -> slice:
        (where,) = filled.nonzero()
        return slice(max(int(where[0]) - margin, 0), int(where[-1]) + margin + 1)

    return span(np.any(area, axis=1)), span(np.any(area, axis=0))


def _shifted(mask: Mask, down: int, right: int) -> Mask:
    """(h, w) at each pixel, the mask's value that far down and right; beyond the edge, that at the edge."""
    high, wide = mask.shape
    return mask[(np.arange(high) + down).clip(0, high - 1)][:, (np.arange(wide) + right).clip(0, wide - 1)]


def _eroded(mask: Mask, distance: int) -> Mask:
    """The pixels whose neighbours at about this distance are in the mask, too."""
    near = round(distance * 0.7)
    steps = [(distance, 0), (-distance, 0), (0, distance), (0, -distance)]
    steps += [(near, near), (near, -near), (-near, near), (-near, -near)]
    result: Mask = np.logical_and.reduce([_shifted(mask, *step) for step in steps])
    return result
