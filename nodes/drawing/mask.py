"""Drawing a mask over its picture."""

import torch
from torch import Tensor

from .regions import COLOURS, outline

_OPACITY, _GREYED = 0.35, 0.45


def over_picture(picture: Tensor, mask: Tensor) -> Tensor:
    """A picture with its mask: tinted and outlined inside, grey and dimmed outside.

    Args:
        picture: (H, W, 3) in 0..1.
        mask: (H, W), 1 inside.

    Returns:
        (H, W, 3) float32 in 0..1.
    """
    inside = mask > 0.5
    grey = (picture @ torch.tensor([0.299, 0.587, 0.114]))[..., None].expand(-1, -1, 3)
    tinted = torch.lerp(picture, torch.tensor(COLOURS[0]).float() / 255, _OPACITY)
    drawn = torch.where(inside[..., None], tinted, grey * _GREYED)
    return torch.where(outline(inside)[..., None], torch.ones(3), drawn)
