"""A recorded run of the authors' program, converted for the pack and ComfyUI. docs/parity.md describes the format."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor


class RecordedNoise:
    """The references' noise from the file; the name of reference i starts with "i|"."""

    def __init__(self, noises: Tensor, sigmas: Tensor) -> None:
        self._noises, self._sigmas = noises, sigmas

    def __call__(self, name: str, sigma: float, shape: tuple[int, ...]) -> Tensor:
        step = int((self._sigmas - sigma).abs().argmin())
        return self._noises[step, int(name.split("|")[0])].reshape(shape)


def unet_model(tensors: dict[str, Tensor], config: dict[str, Any]) -> Any:
    """The recorded UNet as ComfyUI's own model, in a ModelPatcher."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    unet_config = _unet_config(config)
    settings = comfy.supported_models.SD20(dict(unet_config))
    settings.unet_config = {**unet_config, "dtype": torch.float32}
    settings.manual_cast_dtype = None
    settings.optimizations = {"fp8": False}
    device = comfy.model_management.get_torch_device()
    model = settings.get_model({}, "", device=None)

    names = comfy.utils.unet_to_diffusers(unet_config)
    state = {names[name]: tensors[f"unet.{name}"] for name in names if f"unet.{name}" in tensors}
    recorded = sum(name.startswith("unet.") for name in tensors)
    missing, _ = model.diffusion_model.load_state_dict(state, strict=False)
    if missing or len(state) != recorded:
        raise ValueError(f"the file's UNet does not fit its config: missing {missing}, {len(state)} of {recorded} used")
    alphas = tensors["alphas_cumprod"].double()
    model.model_sampling.set_sigmas(torch.sqrt((1 - alphas) / alphas).float())
    return comfy.model_patcher.ModelPatcher(model.to(device), device, torch.device("cpu"))


def _unet_config(config: dict[str, Any]) -> dict[str, Any]:
    """A diffusers UNet config as a ComfyUI UNet config."""
    channels = config["block_out_channels"]
    heads, depths = (
        _each(config.get(name, 1), channels) for name in ("attention_head_dim", "transformer_layers_per_block")
    )
    depth = [d * kind.startswith("CrossAttn") for d, kind in zip(depths, config["down_block_types"], strict=True)]
    layers = config["layers_per_block"]
    # diffusers' attention_head_dim is the number of heads. SD 2 has heads of one size, SD 1 one number of heads.
    sizes = {width // count for width, count in zip(channels, heads, strict=True)}
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [c // channels[0] for c in channels],
        "num_res_blocks": [layers] * len(channels),
        "transformer_depth": [d for d in depth for _ in range(layers)],
        "transformer_depth_output": [d for d in depth for _ in range(layers + 1)],
        "transformer_depth_middle": depths[-1],
        "num_heads": -1 if len(sizes) == 1 else heads[0],
        "num_head_channels": sizes.pop() if len(sizes) == 1 else -1,
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": config.get("use_linear_projection", False),
        "use_spatial_transformer": True,
        "legacy": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }


def _each(value: Any, levels: list[int]) -> list[int]:
    return value if isinstance(value, list) else [value] * len(levels)


def references_of(pack: Any, tensors: dict[str, Tensor], meta: dict[str, str], model: Any) -> tuple[Any, ...]:
    """The recorded references, as the pack would encode them."""
    masks = (tensors["ref_masks"] > 0).float()
    references = []
    for i, (at, weight) in enumerate(zip(json.loads(meta["ref_index"]), json.loads(meta["mask_weights"]), strict=True)):
        references.append(
            pack.sampling.method.Reference(
                concept=str(i),
                concept_tokens=tuple(at) if isinstance(at, list) else (at,),
                caption=f"reference {i}",
                conditioning=[[tensors["cond"][1 + i : 2 + i], {}]],
                latents=model.model.process_latent_out(tensors["ref_latents"][i : i + 1]),
                masks=masks[i],
                weight=weight,
                blend_weight=weight,
                resize="nearest",
            )
        )
    return tuple(references)


def schedule_of(pack: Any, model: Any, tensors: dict[str, Tensor], meta: dict[str, str]) -> Any:
    """The recorded settings; the switch is half-way between the last layout step and the first blend step."""
    last, timesteps = int(meta["inject_step"]), tensors["timesteps"].tolist()
    if last + 1 < len(timesteps):
        highest = len(model.model.model_sampling.sigmas) - 1
        switch = 1 - (timesteps[last] + timesteps[last + 1]) / 2 / highest
    else:
        switch = 1.0
    layout = pack.sampling.families.unet.layout_of(model.model.diffusion_model)
    spans = [[int(number) for number in part.split("-")] for part in meta["layers"].split(",")]
    chosen = [block for span in spans for block in layout[span[0] : span[-1] + 1]]
    return pack.sampling.method.Schedule(
        switch=math.floor(switch * 1e6) / 1e6,
        injection_blocks=",".join(str(block) for block in chosen),
        suppression=float(meta["ca_scale"]),
        refresh=0.0,
    )
