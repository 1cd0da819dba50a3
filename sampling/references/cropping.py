"""Which part of a picture is encoded, and at which size."""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

_MULTIPLE_PX = 64
_LEAST = 0.125  # of the picture's shorter side: a smaller part shows too little to be worth a size of its own
_MOST_ASPECT = 2.0  # of a part, as far as its masks allow; models are trained on pictures of about 1/2 to 2

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels; the last two are outside."""


def encoded_size(height_px: int, width_px: int, side_px: int) -> tuple[int, int]:
    """(height, width) of the encoded picture: the area of side x side in the picture's aspect, in multiples of 64."""
    scale = side_px / math.sqrt(height_px * width_px)
    height, width = (max(1, round(px * scale / _MULTIPLE_PX)) * _MULTIPLE_PX for px in (height_px, width_px))
    return height, width


def crop_to_masks(image: Tensor, masks: Tensor, margin: float, side_px: int) -> tuple[Tensor, Tensor]:
    """Cut pictures and masks to what the masks mark.

    The views of a reference are encoded at one size, so their parts have one shape: the mean of the boxes' own aspects
    (the geometric one), or the nearest that all can have inside their pictures, rounded to that of the encoded size.
    Each box is widened to it, never narrowed, and moved into its picture, so nothing marked is lost and nothing is
    padded. Then all are scaled to the size of the largest.

    Args:
        image: (V, H, W, 3 or 4) in 0..1.
        masks: (V, H, W) in 0..1; each marks a pixel.
        margin: what is left around a mask on each side, as a part of its box's longer side.
        side_px: the encoded part has the area of a square of this side.

    Returns:
        The parts, (V, h, w, 3 or 4), and their masks, (V, h, w). Where the only part is the whole picture, both are
        those that were given.
    """
    height, width = masks.shape[1:]
    boxes = [_with_margin(mask, margin) for mask in masks]
    # The aspects that boxes inside pictures of this size can all have; the pictures' own one is always among them.
    narrowest = max((right - left) / height for _, left, _, right in boxes)
    widest = min(width / (bottom - top) for top, _, bottom, _ in boxes)
    logs = [math.log((right - left) / (bottom - top)) for top, left, bottom, right in boxes]
    aspect = _clamped(math.exp(sum(logs) / len(logs)), 1 / _MOST_ASPECT, _MOST_ASPECT)
    aspect = _clamped(aspect, narrowest, widest)
    encoded = encoded_size(1000, round(1000 * aspect), side_px)
    aspect = _clamped(encoded[1] / encoded[0], narrowest, widest)
    boxes = [_widened(box, aspect, height, width) for box in boxes]
    if all(box == (0, 0, height, width) for box in boxes):
        return image, masks
    size = max((bottom - top, right - left) for top, left, bottom, right in boxes)
    parts = [_scaled(image[view : view + 1, t:b, x:r], size) for view, (t, x, b, r) in enumerate(boxes)]
    cut = [interpolate(masks[None, view : view + 1, t:b, x:r], size, mode="nearest-exact")[0]
           for view, (t, x, b, r) in enumerate(boxes)]  # fmt: skip
    return torch.cat(parts), torch.cat(cut)


def _with_margin(mask: Tensor, margin: float) -> Box:
    """The box of what a mask marks, with the margin, inside the picture."""
    spans = [torch.nonzero((mask > 0).any(dim=axis)).flatten() for axis in (1, 0)]
    (top, bottom), (left, right) = ((int(found[0]), int(found[-1]) + 1) for found in spans)
    beside = margin * max(bottom - top, right - left)
    least = _LEAST * min(mask.shape)
    (top, bottom), (left, right) = (
        _span((low + high) / 2, max(high - low + 2 * beside, least), size)
        for low, high, size in ((top, bottom, mask.shape[0]), (left, right, mask.shape[1]))
    )
    return top, left, bottom, right


def _widened(box: Box, aspect: float, height: int, width: int) -> Box:
    """The smallest box of this aspect around a box, moved into the picture."""
    top, left, bottom, right = box
    tall = max(bottom - top, (right - left) / aspect)
    (top, bottom), (left, right) = (
        _span((top + bottom) / 2, tall, height),
        _span((left + right) / 2, tall * aspect, width),
    )
    return top, left, bottom, right


def _span(centre: float, length: float, size: int) -> tuple[int, int]:
    """Whole pixels of about this length around a centre, moved into 0..size."""
    whole = min(size, max(1, math.ceil(length - 1e-6)))
    first = min(max(0, math.floor(centre - whole / 2)), size - whole)
    return first, first + whole


def _scaled(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture (1, h, w, c) at another size; the same if it has that."""
    if tuple(picture.shape[1:3]) == size:
        return picture
    scaled = interpolate(picture.float().movedim(-1, 1), size, mode="bicubic", antialias=True)
    return scaled.movedim(1, -1).clamp(0, 1).to(picture.dtype)


def _clamped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
