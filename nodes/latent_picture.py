"""What is known of a sampled latent, and the picture to draw it over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..sampling.recording import STORE, Recording

LAST, MOST_STEPS = -1, 10000
_LATENT_PX = 8


def finite_samples(latent: dict[str, Any]) -> Tensor:
    """(b, ch, H, W) the samples of an image's latent.

    Raises:
        ValueError: it is no image's, or not whole.
    """
    samples: Tensor = latent["samples"]
    if samples.ndim != 4:
        raise ValueError(f"latent: has shape {tuple(samples.shape)}; give the latent of an image sampler")
    if not torch.isfinite(samples).all():
        raise ValueError("latent: has values that are not finite (a black picture); sample in a wider number type")
    return samples


def recordings_of(samples: Tensor) -> list[tuple[Recording, int]]:
    """For each image of the latent its run's recording and its place in that run's batch.

    Raises:
        ValueError: no sampled picture of a run with the method, or pictures with different concepts.
    """
    found = STORE.find(samples)
    if found is None:
        raise ValueError(
            "latent: no run with MagicFace is known for it (it was changed after sampling, was sampled without"
            " MagicFace Apply, or too long ago); connect the sampler's own output and sample it again"
        )
    lists = sorted({recording.concepts for recording, _ in found})
    if len(lists) > 1:
        named = " and ".join(f"({', '.join(names)})" for names in lists)
        raise ValueError(f"latent: its pictures were sampled with different concepts, {named}; preview them one by one")
    return found


def pictures_of(image: Tensor | None, samples: Tensor) -> Tensor:
    """(b, H_px, W_px, 3) what to draw over: grey at the latent's size where no picture is given."""
    if image is None:
        return torch.full((len(samples), samples.shape[-2] * _LATENT_PX, samples.shape[-1] * _LATENT_PX, 3), 0.25)
    if len(image) not in (1, len(samples)):
        raise ValueError(f"image: {len(image)} pictures for {len(samples)} latents; give one, or one for each")
    return image[..., :3].float().cpu().expand(len(samples), -1, -1, -1)
