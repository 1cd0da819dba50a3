"""A sampled latent: its region history, and the pictures to draw over."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..sampling.regions.history import REGION_STORE, RegionHistory
from .showing import in_colour, plain_pictures

_LAST, _MAX_STEP = -1, 10000


def step_input(tooltip: str) -> Any:
    """A step of the sampler; the last one by default."""
    return io.Int.Input("step", default=_LAST, min=-_MAX_STEP, max=_MAX_STEP, tooltip=tooltip)


def finite_samples(latent: Any) -> Tensor:
    """(b, ch, H, W) the samples of a latent.

    Raises:
        ValueError: it is not the latent of images, or has values that are not finite.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor) or samples.ndim != 4 or not len(samples):
        given = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples or latent).__name__
        raise ValueError(f"latent: is {given}; give the latent of an image sampler, (images, channels, height, width)")
    if not torch.isfinite(samples).all():
        raise ValueError("latent: has values that are not finite (a black picture); sample in float32 or bfloat16")
    return samples


def histories_of(samples: Tensor) -> list[tuple[RegionHistory, int]]:
    """For each image of a latent, the region history of its run and its index in the run's batch.

    Raises:
        ValueError: no run with MagicFace is known for the latent, or its images have different concepts.
    """
    found = REGION_STORE.find(samples)
    if found is None:
        raise ValueError(f"latent: {_unknown_because(samples)}; connect the sampler's own output and sample it again")
    lists = sorted({history.concept_names for history, _ in found})
    if len(lists) > 1:
        named = " and ".join(f"({', '.join(names)})" for names in lists)
        raise ValueError(f"latent: its pictures were sampled with different concepts, {named}; preview them one by one")
    return found


def _unknown_because(samples: Tensor) -> str:
    if not samples.any():
        return "it is empty, not sampled: the sampler made no step (no steps left, or a denoise of 0)"
    return (
        "no run with MagicFace is known for it: it was sampled without MagicFace Apply (bypassed?) or not sampled at"
        " all, was changed after sampling, or is too old"
    )


def pictures_of(image: Tensor | None, samples: Tensor) -> Tensor:
    """(b, H_px, W_px, 3) in 0..1: the pictures to draw over; grey ones of the latent's size if none are given."""
    if image is None:
        return plain_pictures({"samples": samples}, None)
    if not isinstance(image, Tensor) or image.ndim != 4 or not image.numel():
        raise ValueError("image: is no batch of pictures (images, height, width, 3)")
    if len(image) not in (1, len(samples)):
        raise ValueError(f"image: {len(image)} pictures for {len(samples)} latents; give one, or one for each")
    return in_colour(image).expand(len(samples), -1, -1, -1)
