"""Small Stable Diffusion models with seeded random weights, built from ComfyUI's own classes.

They have the anatomy of the real families (where attention sits, what a UNet call needs, how prompts are
tokenised) at a thousandth of their size, so that tests and tools run the real host on a CPU in a moment.
No picture of theirs means anything. ComfyUI must be importable before this module is.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch import nn

TEXT_LAYERS = 3  # SDXL reads the last layer but one, and ComfyUI wants more layers than it skips


@dataclass(frozen=True)
class Family:
    """One family: ComfyUI's description of it, the small UNet, and the width of each text encoder."""

    config: Any
    unet: Mapping[str, Any]
    text: Mapping[str, int]


# fmt: off
VAE_PARAMS: dict[str, Any] = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    },
}

UNET: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "legacy": False,
    "use_spatial_transformer": True, "use_temporal_attention": False, "use_temporal_resblock": False,
}
# Attention at 2 and 4 times fewer cells a side than the latent; depth 1 and 2 instead of 2 and 10.
UNET_SDXL: dict[str, Any] = {
    **UNET, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 16,
    "context_dim": 32 + 48, "num_classes": "sequential", "adm_in_channels": 48 + 6 * 256,
}
# Attention everywhere but in the lowest level; there in the middle only.
UNET_SD: dict[str, Any] = {
    **UNET, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "adm_in_channels": None,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
UNET_SD2 = {
    **UNET_SD, "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 16, "context_dim": 48,
}
UNET_SD1 = {
    **UNET_SD, "use_linear_in_transformer": False, "num_heads": 2, "num_head_channels": -1, "context_dim": 32,
}

FAMILIES: dict[str, Family] = {
    "sdxl": Family(comfy.supported_models.SDXL, UNET_SDXL, {"clip_l": 32, "clip_g": 48}),
    "sd2": Family(comfy.supported_models.SD20, UNET_SD2, {"clip_h": 48}),
    "sd1": Family(comfy.supported_models.SD15, UNET_SD1, {"clip_l": 32}),
}

# Endings of layer names -> factor on a weight that would keep the variance of a unit input. With them the std of
# attention's logits is 1 to 2, and a small change grows a few times in a sampling run (a hundred with 1.7 at attn1).
UNET_GAINS = {
    "blocks.1.attn1.to_q": 2.2, "blocks.1.attn1.to_k": 2.2,  # the tokens that reach it are much alike
    "attn1.to_q": 1.4, "attn1.to_k": 1.4, "attn2.to_q": 1.7, "attn2.to_k": 1.7,
    "attn1.to_out.0": 2.2, "attn2.to_out.0": 1.8,
}
TEXT_GAINS = {"q_proj": 1.4, "k_proj": 1.4, "token_embedding": 0.6, "position_embedding": 0.3}
CARRY, OWN = 1.0, 0.35  # shares of the predicted noise: the UNet's input, and what it makes of it
# fmt: on


def random_weights(module: nn.Module, seed: str, gains: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """Draw every weight of a module from its own generator.

    Shapes come from each layer's sizes, for ComfyUI may leave the parameters themselves unmade until loading.

    Args:
        module: the module; it is only read.
        seed: any text; equal texts give equal weights.
        gains: ending of a layer's name -> factor on its weight; the first that fits counts.

    Returns:
        A float32 state dict for `module`.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))

    def normal(shape: tuple[int, ...], std: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * std

    weights: dict[str, torch.Tensor] = {}
    shape: tuple[int, ...]
    for name, layer in module.named_modules():
        gain = next((gain for end, gain in gains.items() if name.endswith(end)), 1.0)
        if isinstance(layer, nn.Linear):
            shape = (layer.out_features, layer.in_features)
            weights[f"{name}.weight"] = normal(shape, gain / math.sqrt(layer.in_features))
            if layer.bias is not None or getattr(layer, "comfy_need_lazy_init_bias", False):
                weights[f"{name}.bias"] = normal((layer.out_features,), 0.1)
        elif isinstance(layer, nn.Conv2d):
            shape = (layer.out_channels, layer.in_channels, *layer.kernel_size)
            weights[f"{name}.weight"] = normal(shape, gain / math.sqrt(math.prod(shape[1:])))
            weights[f"{name}.bias"] = normal(shape[:1], 0.1)
        elif isinstance(layer, nn.Embedding):
            weights[f"{name}.weight"] = normal((layer.num_embeddings, layer.embedding_dim), gain)
        elif isinstance(layer, (nn.GroupNorm, nn.LayerNorm)):
            channels = layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.normalized_shape[0]
            weights[f"{name}.weight"] = 1 + normal((channels,), 0.1)
            weights[f"{name}.bias"] = normal((channels,), 0.05)
    return weights


def carry_input(weights: dict[str, torch.Tensor], last: int) -> None:
    """Let a random UNet predict mostly its own input, so that sampling shrinks the noise as a trained one does.

    The first block passes on x and -x beside its random features, the last output block's shortcut passes
    them through alone, and the end takes silu(x) - silu(-x) = x of the normalised pair.

    Args:
        weights: the UNet's state dict, changed in place.
        last: number of the last output block.
    """
    latent = weights["out.2.weight"].shape[0]
    width = weights["input_blocks.0.0.weight"].shape[0]
    pair = torch.cat([torch.eye(latent), -torch.eye(latent)])  # (2 * latent, latent)
    carried = slice(2 * latent)

    def clear(name: str) -> torch.Tensor:
        weights[f"{name}.weight"][carried] = 0
        weights[f"{name}.bias"][carried] = 0
        return weights[f"{name}.weight"]

    clear("input_blocks.0.0")[carried, :latent, 1, 1] = pair
    shortcut = clear(f"output_blocks.{last}.0.skip_connection")
    shortcut[carried, width : width + 2 * latent, 0, 0] = torch.eye(2 * latent)
    clear(f"output_blocks.{last}.0.out_layers.3")
    if f"output_blocks.{last}.1.proj_out.weight" in weights:
        clear(f"output_blocks.{last}.1.proj_out")
    clear("out.0")
    weights["out.0.weight"][carried] = 1
    weights["out.2.weight"][:, carried] = 0
    weights["out.2.weight"][:, carried, 1, 1] = CARRY * pair.T


def load_unet(
    family: str, seed: int, dtype: torch.dtype, v_prediction: bool = False, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """Build the diffusion model alone; ComfyUI calls this again when it wants a fresh copy."""
    spec = FAMILIES[family]
    config = spec.config(dict(spec.unet))
    config.unet_config.update(spec.unet)  # over the head sizes that ComfyUI sets for the real family
    if v_prediction:
        config.model_type = lambda *_: comfy.model_base.ModelType.V_PREDICTION
    device = comfy.model_management.get_torch_device()
    manual_cast = comfy.model_management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, manual_cast)
    model = config.get_model({}, "", device=torch.device("cpu"))
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())
    gains = {**UNET_GAINS, "out.2": 1.5 if v_prediction else OWN}
    weights = random_weights(model.diffusion_model, f"{family}/unet/{seed}", gains)
    if not v_prediction:
        carry_input(weights, last=len(model.diffusion_model.output_blocks) - 1)
    weights = {name: weight.to(dtype) for name, weight in weights.items()}
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_unet, (family, seed, dtype, v_prediction))
    return patcher


def load_clip(family: str, seed: int, embedding_directory: Any = None, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """Build the text encoders and ComfyUI's real CLIP tokeniser."""
    spec = FAMILIES[family]
    options: dict[str, Any] = {"dtype": torch.float32}
    for key, width in spec.text.items():
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": width // 16}
        options[f"{key}_model_config"] = {**sizes, "num_hidden_layers": TEXT_LAYERS}
    target = spec.config(dict(spec.unet)).clip_target({})
    shapes = target.clip(dtype=torch.float32, model_options=options)
    weights = random_weights(shapes, f"{family}/clip/{seed}", TEXT_GAINS)
    clip = comfy.sd.CLIP(
        target, embedding_directory, state_dict=weights, model_options=options, disable_dynamic=disable_dynamic
    )
    for key, width in spec.text.items():
        getattr(clip.tokenizer, key).embedding_size = width  # of textual inversion files
    clip.patcher.cached_patcher_init = (load_clip_patcher, (family, seed, embedding_directory))
    return clip


def load_clip_patcher(
    family: str, seed: int, embedding_directory: Any, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """What `load_clip` makes, as ComfyUI calls it again when it wants a fresh copy."""
    return load_clip(family, seed, embedding_directory, disable_dynamic).patcher


def load_vae(family: str, seed: int) -> comfy.sd.VAE:
    """Build the autoencoder: 8 pixels a latent cell, 4 channels."""
    latent_scale = FAMILIES[family].config.latent_format().scale_factor
    gains = {"encoder.conv_out": 1.7 / latent_scale, "decoder.conv_in": latent_scale, "decoder.conv_out": 0.8}
    weights = random_weights(AutoencoderKL(**VAE_PARAMS), f"{family}/vae/{seed}", gains)
    vae = comfy.sd.VAE(sd=weights, config={"params": VAE_PARAMS}, dtype=torch.float32)
    vae.first_stage_model.requires_grad_(False)
    return vae


def load(
    family: str = "sdxl",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    *,
    v_prediction: bool = False,
    embedding_directory: Any = None,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """Build a small model of one family, as a checkpoint loader would.

    Args:
        family: "sdxl", "sd2" or "sd1".
        seed: chooses the weights; equal seeds give equal bits in every process.
        dtype: of the diffusion model's weights; text encoders and autoencoder stay in float32.
        v_prediction: the diffusion model predicts v, as SD 2.1 at 768 pixels does, instead of the noise.
        embedding_directory: folder or folders with textual inversion files.

    Returns:
        The model, the text encoders, the autoencoder.

    Raises:
        ValueError: the family is unknown.
    """
    if family not in FAMILIES:
        raise ValueError(f"Unknown family {family!r}: expected one of {', '.join(FAMILIES)}.")
    unet = load_unet(family, seed, dtype, v_prediction)
    return unet, load_clip(family, seed, embedding_directory), load_vae(family, seed)
