"""Lines of text below a picture, for what a person should know about it."""

import textwrap
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .fonts import drawable_text, font_for
from .pillow import BACKGROUND, TEXT, from_pillow


def extended(picture: Tensor, height: int) -> Tensor:
    """A picture (H, W, 3) in 0..1 with background below it, up to a height."""
    below = torch.tensor(BACKGROUND) / 255
    return torch.cat((picture, below.expand(height - len(picture), picture.shape[1], 3)))


def with_notes(picture: Tensor, notes: Sequence[str]) -> Tensor:
    """A picture (H, W, 3) in 0..1 with notes below it, wrapped to its width; the picture itself if there are none."""
    if not notes:
        return picture
    width = picture.shape[1]
    size = max(10, min(20, width // 40))
    font = font_for(" ".join(notes), size)
    columns = max(8, int((width - size) / font.getlength("n")))
    lines = [line for note in notes for line in textwrap.wrap(drawable_text(note, font), columns)]
    image = Image.new("RGB", (width, size // 2 + len(lines) * (size * 5 // 4) + size // 2), BACKGROUND)
    ImageDraw.Draw(image).multiline_text((size // 2, size // 2), "\n".join(lines), TEXT, font, spacing=size // 4)
    return torch.cat((picture, from_pillow(image)))
