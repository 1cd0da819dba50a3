"""Noised pictures through the unmodified UNet, with a caption as the prompt: what every reading of references does."""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import comfy.samplers
from torch import Tensor

from ...attention.device import to_device

Conditioning = Sequence[tuple[Tensor, dict[str, Any]]]
"""An encoded text, as ComfyUI's CONDITIONING."""


class LastBlockReached(Exception):
    """Ends a UNet call, because nothing behind the last block is read."""


def conds_of(model: Any, conditioning: Conditioning, latent: Tensor, seed: int) -> list[dict[str, Any]]:
    """ComfyUI's conds of a caption, one for each part of its schedule; `processed` holds what the UNet is given.

    Args:
        model: ComfyUI's BaseModel.
        conditioning: the encoded caption.
        latent: (1, ch, h, w) in the UNet's space, on the device. Some models' conds need it, or its size.
        seed: some models' conds need it.
    """
    base = [{**options, "cross_attn": text, "model_conds": {}, "uuid": uuid.uuid4()} for text, options in conditioning]
    comfy.samplers.calculate_start_end_timesteps(model, base)
    conds = comfy.samplers.encode_model_conds(
        model.extra_conds, base, latent, latent.device, "positive", latent_image=latent, denoise_mask=None, seed=seed
    )
    for cond in conds:
        cond["processed"] = {
            name: value.process_cond(batch_size=1, area=None) for name, value in cond["model_conds"].items()
        }
    return conds


def part_at(conds: Sequence[dict[str, Any]], sigma: float) -> int:
    """The index of the part of a scheduled caption that is on at a noise level."""
    for part, cond in enumerate(conds):
        if cond.get("timestep_start", sigma) >= sigma >= cond.get("timestep_end", sigma):
            return part
    return len(conds) - 1


def new_options(sigma: Tensor, model_options: dict[str, Any]) -> dict[str, Any]:
    """New transformer options at a noise level: the patches, caches and wrappers of the target are not for references.

    Only an attention override is inherited, as another backend, with the noise levels that it may ask for.
    """
    options: dict[str, Any] = {"cond_or_uncond": [0], "uuids": [uuid.uuid4()], "sigmas": sigma[:1]}
    inherited = ("sample_sigmas", "optimized_attention_override")
    given = model_options.get("transformer_options", {})
    return options | {name: given[name] for name in inherited if name in given}


def call_unet(
    model: Any, latents: Tensor, noise: Tensor, sigma: Tensor, conds: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    """Noise latents and send them through the UNet together. The patches in the options read what they need.

    Args:
        model: ComfyUI's BaseModel.
        latents: (n, ch, h, w) clean, in the UNet's space, on the device.
        noise: (n, ch, h, w) standard normal.
        sigma: (b,) the noise level.
        conds: of each latent, what the UNet is given.
        options: transformer options.
    """
    sigmas = sigma[:1].expand(len(latents))
    x = model.model_sampling.noise_scaling(
        sigmas.view(-1, 1, 1, 1), to_device(noise, latents.device, latents.dtype), latents
    )
    with suppress(LastBlockReached):
        model.apply_model(x, sigmas, **comfy.samplers.cond_cat(conds), transformer_options=options)
