"""One concept's mask from its words' attention maps (docs/method.md#masks-from-words)."""

import torch
from torch import Tensor


def relative_map(maps: Tensor) -> Tensor:
    """How strongly each pixel belongs to a concept, relative to the pixel that does most.

    Args:
        maps: (b, t, H2, W2) float32, the map of each of the concept's words over its spatial mean.

    Returns:
        (b, 1, H2, W2) in 0..1; 0 everywhere where no map has any value.
    """
    strongest = maps.amax(dim=1, keepdim=True)
    highest = strongest.amax(dim=(2, 3), keepdim=True)
    return strongest / highest.clamp_min(torch.finfo(torch.float32).tiny)


def above(relative: Tensor, threshold: float) -> Tensor:
    """(b, H, W) float32, 1 where a relative map (b, 1, H, W) is above the threshold and 0 elsewhere."""
    return (relative[:, 0] > threshold).float()
