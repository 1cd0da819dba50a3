"""Pictures of the page: regions over a picture, and any picture as the text of a data URI."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageFilter

from .measures import Mask

MAX_PX = 512
# Okabe and Ito's colours, as in MagicFace Segmentation Preview, and three more.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#882255", "#999999", "#44AA99")
_OPACITY, _QUALITY = 0.55, 85
_LINE_PX, _HALO_PX = 3, 5  # odd


def small(picture: Image.Image) -> Image.Image:
    """A copy no larger than the page shows it."""
    copy = picture.convert("RGB")
    copy.thumbnail((MAX_PX, MAX_PX))
    return copy


def over(
    picture: Image.Image, regions: Mapping[str, Mask], words: Mapping[str, Mask], order: Sequence[str]
) -> Image.Image:
    """A small copy with the concepts' regions coloured, and outlines of the masks that their words find in it.

    Args:
        picture: with the size of the masks.
        regions, words: masks by concept.
        order: the concepts, by which they have their colours.
    """
    drawn = small(picture)
    plain = {word: Image.new("RGB", drawn.size, colour_of(word, order)) for word in order}
    for word, mask in regions.items():
        drawn.paste(Image.blend(drawn, plain[word], _OPACITY), mask=_fitted(mask, drawn.size))
    for word, mask in words.items():
        drawn.paste("white", mask=outline(_fitted(mask, drawn.size), _HALO_PX))
        drawn.paste(plain[word], mask=outline(_fitted(mask, drawn.size), _LINE_PX))
    return drawn


def colour_of(word: str, order: Sequence[str]) -> str:
    """The colour of a concept."""
    return COLOURS[order.index(word) % len(COLOURS)]


def outline(mask: Image.Image, width_px: int) -> Image.Image:
    """The pixels at a mask's edge, as a mask."""
    outer, inner = (mask.filter(kind(width_px)) for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter))
    return Image.fromarray((np.asarray(outer) != np.asarray(inner)).astype(np.uint8) * 255)


def data_uri(picture: Image.Image) -> str:
    """A small copy as JPEG, in the text of an address."""
    file = io.BytesIO()
    small(picture).save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _fitted(mask: Mask, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
