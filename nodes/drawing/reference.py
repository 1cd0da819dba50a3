"""Drawing a reference: its pictures with all that is outside the masks faded, and what counts of them."""

import torch
from comfy_api.latest import ui
from torch import Tensor
from torch.nn.functional import interpolate

from ...attention.masks import token_mask
from ...sampling.families.unet import LATENT_PX
from ...sampling.method import Reference
from ...sampling.references.given_masks import slight_masks
from .note import extended, with_notes

_FADED = 0.8
_RATIOS = (1, 2, 4)  # of the token grids that injection blocks have in the supported families


def preview_of(node: type, reference: Reference) -> ui.PreviewImage:
    """What a node shows of the reference that it gives out."""
    return ui.PreviewImage(draw_reference(reference), cls=node)


def draw_reference(reference: Reference) -> Tensor:
    """(V, H, W, 3) in 0..1: a picture for each view, with lines below it."""
    assert reference.pictures is not None
    height, width = reference.latents.shape[-2:]
    doubts = [*reference.mask_notes, *slight_masks(reference.masks, (height, width))]
    drawn = []
    for picture, mask in zip(reference.pictures, reference.masks, strict=True):
        grids = [(-(-height // ratio), -(-width // ratio)) for ratio in _RATIOS]
        counts = [f"{len(token_mask(mask, grid, reference.resize).indices)} of {grid[0] * grid[1]}" for grid in grids]
        share = f"{100 * float(mask.mean(dtype=torch.float64)):.2g} % of the picture"
        lines = [
            f"{reference.concept}: encoded at {width * LATENT_PX} x {height * LATENT_PX}, {share} counts",
            f"tokens inside the mask: {', '.join(counts)} (fine to coarse grid)",
            *doubts,
        ]
        drawn.append(with_notes(faded(picture.float() / 255, mask), lines))
    tallest = max(len(picture) for picture in drawn)  # lines may wrap differently
    return torch.stack([extended(picture, tallest) for picture in drawn])


def faded(picture: Tensor, mask: Tensor) -> Tensor:
    """A picture (H, W, 3) in 0..1 that fades to white where a mask (H', W') in 0..1 is 0."""
    part = interpolate(mask[None, None].float(), size=picture.shape[:2], mode="area")[0, 0, ..., None].clamp(0, 1)
    return picture + (1 - part) * _FADED * (1 - picture)
