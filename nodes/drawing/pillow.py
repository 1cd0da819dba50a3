"""Tensors and pillow's pictures, and the colours of what is written on them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

BACKGROUND = (24, 24, 28)
TEXT = (235, 235, 235)


def from_pillow(image: Image.Image) -> Tensor:
    """(H, W, 3) float32 in 0..1."""
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255


def to_pillow(picture: Tensor) -> Image.Image:
    """A picture (H, W, 3) in 0..1."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy())
