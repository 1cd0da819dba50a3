"""Drawing regions: colours over a picture, the foreground's outline, and a legend."""

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from ...attention.regions import resize_nearest
from ...sampling.regions.history import StepRegions
from .fonts import Font, drawable_names, font_for, shorten
from .pillow import BACKGROUND, TEXT, from_pillow

# Okabe and Ito's colours, which colour-blind people can tell apart too, and three more for up to ten concepts.
_HEX = "E69F00 56B4E9 009E73 F0E442 0072B2 D55E00 CC79A7 882255 999999 44AA99"
COLOURS = [tuple(bytes.fromhex(code)) for code in _HEX.split()]
_OPACITY = 0.55
_STRIP_PX, _IN_A_ROW = 320, 5
_MARGIN_PX = 4


def resize_regions(at: StepRegions | None, index: int, size_px: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Concepts (H, W) int64, -1 for none, and foreground (H, W) bool of one image of the batch, at a picture's size."""
    if at is None:
        return torch.full(size_px, -1), torch.zeros(size_px, dtype=torch.bool)
    one = slice(index, index + 1)
    return resize_nearest(at.concepts[one].long(), size_px)[0], resize_nearest(at.foreground[one], size_px)[0]


def draw_regions(
    picture: Tensor, at: StepRegions | None, index: int, names: Sequence[str], translucent: bool
) -> Tensor:
    """One picture with its regions coloured, the foreground outlined, and a legend below.

    Args:
        picture: (H, W, 3) in 0..1.
        at: the regions of a step, None for no regions.
        index: of the image in its run's batch.
        names: the concepts' phrases.
        translucent: let the picture show through the colours.

    Returns:
        (H + legend, W, 3) float32 in 0..1; the legend's height depends on W and the names only.
    """
    concepts, foreground = resize_regions(at, index, picture.shape[:2])
    palette = torch.tensor([COLOURS[i % len(COLOURS)] for i in range(len(names))]).float() / 255
    opacity = _OPACITY if translucent else 1.0
    coloured = picture * (1 - opacity) + palette[concepts.clamp(min=0)] * opacity
    drawn = torch.where((concepts >= 0)[..., None], coloured, picture)
    drawn = torch.where(outline(foreground)[..., None], torch.ones(3), drawn)
    shares = [float((concepts == index).float().mean()) for index in range(len(names))]
    return torch.cat((drawn, _legend(picture.shape[1], names, shares)))


def reduce_for_strip(picture: Tensor) -> Tensor:
    """A picture (H, W, 3) made no wider than one of a strip."""
    scale = min(1.0, _STRIP_PX / picture.shape[1])
    size = [max(1, round(px * scale)) for px in picture.shape[:2]]
    return interpolate(picture.movedim(-1, 0)[None], size=size, mode="area")[0].movedim(0, -1)


def strip(drawn: Mapping[int, Tensor]) -> Tensor:
    """Pictures (H, W, 3) by step, in rows of five, each with its step above it; (H', W', 3) in 0..1."""
    steps = sorted(drawn.items())
    headed = [torch.cat((_heading(picture.shape[1], f"step {step}"), picture)) for step, picture in steps]
    columns = min(_IN_A_ROW, len(headed))
    headed += [torch.zeros_like(headed[0])] * (-len(headed) % columns)
    return rearrange(torch.stack(headed), "(row column) h w c -> (row h) (column w) c", column=columns)


def _heading(width_px: int, text: str) -> Tensor:
    """(h, width_px, 3): a line of text to put above a picture."""
    size = _font_size(width_px)
    image = Image.new("RGB", (width_px, size * 3 // 2), BACKGROUND)
    ImageDraw.Draw(image).text((size // 2, size // 4), text, fill=TEXT, font=ImageFont.load_default(size))
    return from_pillow(image)


def _font_size(width_px: int) -> int:
    return max(10, min(28, width_px // 32))


def outline(foreground: Tensor) -> Tensor:
    """(H, W) bool: the foreground's outermost pixels, thicker on larger pictures; none at the picture's border."""
    reach = max(1, min(foreground.shape) // 512)
    outside = (~foreground).float()[None, None]
    near = max_pool2d(outside, 2 * reach + 1, stride=1, padding=reach)[0, 0] > 0
    return near & foreground


def _legend(width_px: int, names: Sequence[str], shares: Sequence[float]) -> Tensor:
    """(h, width_px, 3): a swatch, the name and the share of each concept, in as many lines as it takes."""
    size = _font_size(width_px)
    texts = [(name, font_for(name, size)) for name in drawable_names(names)]
    corners, x, y = [], size // 2, size // 2
    for text, font in texts:
        # The layout must not depend on the shares.
        width = int(size * 1.5 + font.getlength(f"{text} 100%") + size)
        if x > size // 2 and x + width > width_px:
            x, y = size // 2, y + size * 3 // 2
        corners.append((x, y))
        x += width
    image = Image.new("RGB", (width_px, y + size * 3 // 2), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for index, (left, top) in enumerate(corners):
        text, font = texts[index]
        draw.rectangle((left, top, left + size, top + size), fill=COLOURS[index % len(COLOURS)])
        left += size * 3 // 2
        label = _label(text, f" {shares[index]:.0%}", width_px - left, font)
        draw.text((left, top + size // 2), label, fill=TEXT, font=font, anchor="lm")
    return from_pillow(image)


def _label(name: str, share: str, width_px: int, font: Font) -> str:
    """Name and share; a name that is too long for the line is shortened."""
    if font.getlength(name + share) <= width_px:
        return name + share
    return shorten(name, width_px - font.getlength(share) - _MARGIN_PX, font) + share
