"""Drawing attention: heat maps over pictures, a polar colour map, and sheets of labelled pictures."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from .fonts import font_for, shorten
from .pillow import BACKGROUND, TEXT, from_pillow, to_pillow

# From dark violet over red to pale yellow, brighter all the way.
_HEAT = ((20, 11, 52), (101, 21, 110), (188, 55, 84), (237, 105, 37), (252, 255, 164))
_CELL_PX = 320
_GAP_PX = 8
_FONT_PX = 15
_DIM = 0.3
_OPACITY = 0.75


class Cell(NamedTuple):
    """One picture of a sheet, (H, W, 3) float32 in 0..1, and the text under it."""

    picture: Tensor
    label: str


def heat_over(picture: Tensor, heat: Tensor, highest: float) -> Tensor:
    """A picture (H, W, 3) in 0..1, in grey under a heat map (hh, ww) of values from 0 to `highest`, the hottest."""
    level = _enlarged((heat / max(highest, 1e-12)).clamp(0, 1)[..., None], picture, "bilinear")
    anchors = torch.tensor(_HEAT).float() / 255
    position = level[..., 0] * (len(anchors) - 1)
    below = position.floor().long().clamp(max=len(anchors) - 2)
    colour = torch.lerp(anchors[below], anchors[below + 1], (position - below)[..., None])
    return torch.lerp(_grey(picture), colour, 0.25 + 0.65 * level)


def polar_colours(grid: tuple[int, int], tokens: Tensor) -> Tensor:
    """(hh, ww, 3) colours of a grid: the hue is the direction from the tokens' centre, paler towards it."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    y, x = rows.float().flatten(), columns.float().flatten()
    down, right = y - y[tokens].mean(), x - x[tokens].mean()
    distance = torch.hypot(down, right)
    saturation = (distance / distance[tokens].max().clamp_min(1e-6)).clamp(0, 1).sqrt()
    direction = torch.atan2(down, right)[:, None] - torch.arange(3) * (2 * math.pi / 3)
    colour = torch.lerp(torch.ones(()), 0.5 + 0.5 * torch.cos(direction), saturation[:, None])
    return colour.view(*grid, 3)


def colours_over(picture: Tensor, colours: Tensor, shown: Tensor) -> Tensor:
    """A picture (H, W, 3) with colours (hh, ww, 3) over the cells (hh, ww) that are true, dimmed elsewhere."""
    coloured = torch.lerp(_grey(picture), _enlarged(colours, picture, "nearest"), _OPACITY)
    return torch.where(_enlarged(shown[..., None].float(), picture, "nearest") > 0.5, coloured, picture * _DIM)


def dim_outside(picture: Tensor, shown: Tensor) -> Tensor:
    """A picture dimmed outside the cells (hh, ww) of a grid that are true."""
    return torch.where(_enlarged(shown[..., None].float(), picture, "nearest") > 0.5, picture, picture * _DIM)


def sheet(rows: Sequence[Sequence[Cell]]) -> Tensor:
    """Pictures in rows, each with its label; (H, W, 3) float32 in 0..1. Its size depends on their shapes only."""
    sized = [[(_in_cell(cell.picture), cell.label) for cell in row] for row in rows]
    heights = [max(image.height for image, _ in row) + 2 * _FONT_PX for row in sized]
    width = max(sum(image.width + _GAP_PX for image, _ in row) for row in sized) + _GAP_PX
    page = Image.new("RGB", (width, sum(heights) + _GAP_PX * (len(rows) + 1)), BACKGROUND)
    draw = ImageDraw.Draw(page)
    top = _GAP_PX
    for row, height in zip(sized, heights, strict=True):
        left = _GAP_PX
        for image, label in row:
            page.paste(image, (left, top))
            font = font_for(label, _FONT_PX)
            draw.text((left, top + image.height + _FONT_PX // 3), shorten(label, image.width, font), TEXT, font)
            left += image.width + _GAP_PX
        top += height + _GAP_PX
    return from_pillow(page)


def _in_cell(picture: Tensor) -> Image.Image:
    """A picture at the height of a cell."""
    height, width = picture.shape[:2]
    size = max(1, round(width * (_CELL_PX / height))), _CELL_PX
    return to_pillow(picture).resize(size, Image.Resampling.LANCZOS)


def _grey(picture: Tensor) -> Tensor:
    return (picture @ torch.tensor([0.299, 0.587, 0.114]))[..., None].expand(-1, -1, 3)


def _enlarged(values: Tensor, picture: Tensor, mode: str) -> Tensor:
    """Values (hh, ww, c) of a grid at a picture's size."""
    return interpolate(values.movedim(-1, 0)[None], size=picture.shape[:2], mode=mode)[0].movedim(0, -1)
