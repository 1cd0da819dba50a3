"""Drawing regions: colours over a picture, the foreground's outline, and a legend."""

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from .pillow import BACKGROUND, TEXT, from_pillow

# Okabe and Ito's colours, told apart by colour-blind people too, and three more for up to ten concepts.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (136, 34, 85),
    (153, 153, 153),
    (68, 170, 153),
)
_OPACITY = 0.55
_STRIP_PX, _IN_A_ROW = 320, 5


def draw_regions(
    picture: Tensor, concepts: Tensor, foreground: Tensor, names: Sequence[str], translucent: bool
) -> Tensor:
    """One picture with its regions coloured, the foreground outlined, and a legend below.

    Args:
        picture: (H, W, 3) in 0..1.
        concepts: (H, W) int64 concept indices or -1.
        foreground: (H, W) bool.
        names: the concepts' phrases.
        translucent: let the picture show through the colours.

    Returns:
        (H + legend, W, 3) float32 in 0..1; the legend's height depends on W and the names only.
    """
    palette = torch.tensor([COLOURS[i % len(COLOURS)] for i in range(len(names))]).float() / 255
    inside = (concepts >= 0)[..., None]
    colour = palette[concepts.clamp(min=0)]
    opacity = _OPACITY if translucent else 1.0
    drawn = torch.where(inside, picture * (1 - opacity) + colour * opacity, picture)
    drawn = torch.where(_outline(foreground)[..., None], torch.ones(3), drawn)
    shares = [float((concepts == index).float().mean()) for index in range(len(names))]
    return torch.cat((drawn, _legend(picture.shape[1], names, shares)))


def reduced(picture: Tensor) -> Tensor:
    """A picture (H, W, 3) no wider than one of a strip."""
    scale = min(1.0, _STRIP_PX / picture.shape[1])
    size = [max(1, round(px * scale)) for px in picture.shape[:2]]
    return interpolate(picture.movedim(-1, 0)[None], size=size, mode="area")[0].movedim(0, -1)


def strip(drawn: Mapping[int, Tensor]) -> Tensor:
    """Pictures (H, W, 3) of several steps in rows of five, each with its number above it; (H', W', 3) in 0..1."""
    numbered = [
        torch.cat((_line(picture.shape[1], f"step {step}"), picture)) for step, picture in sorted(drawn.items())
    ]
    columns = min(_IN_A_ROW, len(numbered))
    numbered += [torch.zeros_like(numbered[0])] * (-len(numbered) % columns)
    return rearrange(torch.stack(numbered), "(row column) h w c -> (row h) (column w) c", column=columns)


def _line(width_px: int, text: str) -> Tensor:
    """(h, width_px, 3): a line of text above a picture."""
    size = _font_size(width_px)
    image = Image.new("RGB", (width_px, size * 3 // 2), BACKGROUND)
    ImageDraw.Draw(image).text((size // 2, size // 4), text, fill=TEXT, font=ImageFont.load_default(size))
    return from_pillow(image)


def _font_size(width_px: int) -> int:
    return max(10, min(28, width_px // 32))


def _outline(foreground: Tensor) -> Tensor:
    """(H, W) bool: the foreground's outermost pixels, thicker on larger pictures; none at the picture's border."""
    reach = max(1, min(foreground.shape) // 512)
    outside = (~foreground).float()[None, None]
    near = max_pool2d(outside, 2 * reach + 1, stride=1, padding=reach)[0, 0] > 0
    return near & foreground


def _legend(width_px: int, names: Sequence[str], shares: Sequence[float]) -> Tensor:
    """(h, width_px, 3): a swatch, the name and the share of each concept, in as many lines as it takes."""
    size = _font_size(width_px)
    font = ImageFont.load_default(size)
    labels = [f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True)]
    slots = [f"{name} 100%" for name in names]
    places, x, y = [], size // 2, size // 2
    for slot in slots:
        width = int(size * 1.5 + font.getlength(slot) + size)
        if x > size // 2 and x + width > width_px:
            x, y = size // 2, y + size * 3 // 2
        places.append((x, y))
        x += width
    image = Image.new("RGB", (width_px, y + size * 3 // 2), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for index, ((left, top), label) in enumerate(zip(places, labels, strict=True)):
        draw.rectangle((left, top, left + size, top + size), fill=COLOURS[index % len(COLOURS)])
        draw.text((left + size * 3 // 2, top + size // 2), label, fill=TEXT, font=font, anchor="lm")
    return from_pillow(image)
