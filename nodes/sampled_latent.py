"""The region history of a sampled latent, and the picture to draw over."""

from typing import Any

import torch
from torch import Tensor

from ..sampling.families.unet import LATENT_PX
from ..sampling.regions.history import REGION_STORE, RegionHistory

LAST, MAX_STEP = -1, 10000


def finite_samples(latent: dict[str, Any]) -> Tensor:
    """(b, ch, H, W) the samples of an image's latent.

    Raises:
        ValueError: it is not an image's, or has values that are not finite.
    """
    samples: Tensor = latent["samples"]
    if samples.ndim != 4:
        raise ValueError(f"latent: has shape {tuple(samples.shape)}; give the latent of an image sampler")
    if not torch.isfinite(samples).all():
        raise ValueError("latent: has values that are not finite (a black picture); sample in a wider number type")
    return samples


def histories_of(samples: Tensor) -> list[tuple[RegionHistory, int]]:
    """For each image of the latent its run's region history and its index in that run's batch.

    Raises:
        ValueError: the latent is not that of a run with the method, or its images have different concepts.
    """
    found = REGION_STORE.find(samples)
    if found is None:
        raise ValueError(
            "latent: no run with MagicFace is known for it (it was changed after sampling, was sampled without"
            " MagicFace Apply, or too long ago); connect the sampler's own output and sample it again"
        )
    lists = sorted({history.concept_names for history, _ in found})
    if len(lists) > 1:
        named = " and ".join(f"({', '.join(names)})" for names in lists)
        raise ValueError(f"latent: its pictures were sampled with different concepts, {named}; preview them one by one")
    return found


def pictures_of(image: Tensor | None, samples: Tensor) -> Tensor:
    """(b, H_px, W_px, 3) the pictures to draw over: grey ones of the latent's size if none are given."""
    if image is None:
        return torch.full((len(samples), samples.shape[-2] * LATENT_PX, samples.shape[-1] * LATENT_PX, 3), 0.25)
    if len(image) not in (1, len(samples)):
        raise ValueError(f"image: {len(image)} pictures for {len(samples)} latents; give one, or one for each")
    return image[..., :3].float().cpu().expand(len(samples), -1, -1, -1)
