"""Small Stable Diffusion models, built from ComfyUI's own classes.

They have the structure of the real families (where attention is, what a UNet call needs, how prompts are tokenised) at
a thousandth of their size, so that tests and tools run the real ComfyUI quickly on a CPU. "portraits" was trained on
drawn portraits; the others have seeded random weights, and their pictures mean nothing. ComfyUI must be importable
before this module is imported.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import safetensors.torch
import torch
from comfy.ldm.cascade.stage_a import StageA
from comfy.ldm.models.autoencoder import AutoencoderKL

from .families import FAMILIES, MEASURED, TEXT_LAYERS, VAE, Family
from .random_weights import OWN, TEXT_GAINS, UNET_GAINS, carry_input, random_weights

Weights = dict[str, torch.Tensor]
TABLE, VOCABULARY = "token_embedding.weight", 49408


def make_unet(family: Family, dtype: torch.dtype, v_prediction: bool = False) -> comfy.model_base.BaseModel:
    """The diffusion model of a family, without weights."""
    config = family.config(dict(family.unet))
    config.unet_config.update(family.unet)  # replaces the head sizes that ComfyUI sets for the real family
    if v_prediction or family.v_prediction:
        config.model_type = lambda *_: comfy.model_base.ModelType.V_PREDICTION
    device = comfy.model_management.get_torch_device()
    manual_cast = comfy.model_management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, manual_cast)
    return config.get_model({}, "", device=torch.device("cpu"))


def clip_options(family: Family) -> dict[str, Any]:
    """The sizes of the text encoders, in the form of ComfyUI's model options."""
    options: dict[str, Any] = {"dtype": torch.float32}
    for key, width in family.text.items():
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": width // 16}
        options[f"{key}_model_config"] = {**sizes, "num_hidden_layers": TEXT_LAYERS}
    return options


def clip_target(family: Family) -> Any:
    """ComfyUI's description of a family's text encoders and tokeniser."""
    return family.config(dict(family.unet)).clip_target({})


def make_encoders(family: Family) -> torch.nn.Module:
    """The text encoders of a family, without weights."""
    encoders: torch.nn.Module = clip_target(family).clip(dtype=torch.float32, model_options=clip_options(family))
    return encoders


@lru_cache(maxsize=1)
def _read(file: Path) -> Weights:
    return safetensors.torch.load_file(file)


def weights_in(file: Path, part: str) -> Weights:
    """The float32 weights of "unet", "text" or "vae" in a file of trained weights."""
    start = f"{part}."
    return whole_tables(
        {name.removeprefix(start): weight.float() for name, weight in _read(file).items() if name.startswith(start)}
    )


def trained_weights(family: Family, part: str) -> Weights | None:
    """The float32 weights of "unet", "text" or "vae" from a family's file; None if it has no file."""
    return weights_in(Path(__file__).with_name(family.file), part) if family.file else None


def known_rows(weights: Weights, tokens: torch.Tensor) -> Weights:
    """The weights with only those rows of each token table that belong to known tokens, which keeps a file small.

    Args:
        weights: of text encoders.
        tokens: (k,) int64, the known tokens.
    """
    small = dict(weights)
    for name in weights:
        if name.endswith(TABLE):
            small[name + ".rows"] = small.pop(name)[tokens].clone()
            small[name + ".tokens"] = tokens.clone()
    return small


def whole_tables(weights: Weights) -> Weights:
    """The inverse of `known_rows`; unknown tokens have rows of zeros."""
    whole = {name: weight for name, weight in weights.items() if not name.endswith((".rows", ".tokens"))}
    for name, rows in weights.items():
        if name.endswith(f"{TABLE}.rows"):
            table = torch.zeros(VOCABULARY, rows.shape[1], dtype=rows.dtype)
            table[weights[name.removesuffix("rows") + "tokens"].long()] = rows
            whole[name.removesuffix(".rows")] = table
    return whole


def load_unet(
    name: str, seed: int, dtype: torch.dtype, v_prediction: bool = False, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """Build the diffusion model alone; ComfyUI calls this again when it needs a new copy."""
    family = (FAMILIES | MEASURED)[name]
    model = make_unet(family, dtype, v_prediction)
    device = comfy.model_management.get_torch_device()
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())
    weights = trained_weights(family, "unet")
    if weights is None:
        gains = {**UNET_GAINS, "out.2": 1.5 if v_prediction else OWN}
        where = device if name in MEASURED else None
        weights = random_weights(model.diffusion_model, f"{name}/unet/{seed}", gains, dtype, where)
        if not v_prediction:
            carry_input(weights, last=len(model.diffusion_model.output_blocks) - 1)
    weights = {key: weight.to(dtype) for key, weight in weights.items()}
    model.load_model_weights(weights, "", assign=True)  # without a second copy in memory
    patcher.cached_patcher_init = (load_unet, (name, seed, dtype, v_prediction))
    return patcher


def load_clip(name: str, seed: int, embedding_directory: Any = None, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """Build the text encoders and ComfyUI's real CLIP tokeniser."""
    family = (FAMILIES | MEASURED)[name]
    weights = trained_weights(family, "text")
    if weights is None:
        weights = random_weights(make_encoders(family), f"{name}/clip/{seed}", TEXT_GAINS)
    clip = comfy.sd.CLIP(
        clip_target(family),
        embedding_directory,
        state_dict=weights,
        model_options=clip_options(family),
        disable_dynamic=disable_dynamic,
    )
    for key, width in family.text.items():
        getattr(clip.tokenizer, key).embedding_size = width  # the width of textual inversion files
    clip.patcher.cached_patcher_init = (load_clip_patcher, (name, seed, embedding_directory))
    return clip


def load_clip_patcher(
    name: str, seed: int, embedding_directory: Any, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The result of `load_clip`, in the form in which ComfyUI requests a new copy."""
    return load_clip(name, seed, embedding_directory, disable_dynamic).patcher


def load_vae(name: str, seed: int) -> comfy.sd.VAE:
    """Build the autoencoder: 8 x 8 pixels for each latent cell, 4 channels."""
    family = FAMILIES[name]
    plain = AutoencoderKL(**VAE)
    weights = trained_weights(family, "vae")
    if weights is None:
        latent_scale = family.config.latent_format().scale_factor
        gains = {"encoder.conv_out": 1.7 / latent_scale, "decoder.conv_in": latent_scale, "decoder.conv_out": 0.8}
        random = random_weights(plain, f"{name}/vae/{seed}", gains)
        vae = comfy.sd.VAE(sd=random, config={"params": VAE}, dtype=torch.float32)
    else:
        vae = comfy.sd.VAE(sd=plain.state_dict(), config={"params": VAE}, dtype=torch.float32)
        _replace_autoencoder(vae, StageA(**family.vae), weights)
    vae.first_stage_model.requires_grad_(False)
    vae.patcher.cached_patcher_init = (load_vae_patcher, (name, seed))
    return vae


def load_vae_patcher(name: str, seed: int, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The result of `load_vae`, in the form in which ComfyUI requests a new copy."""
    return load_vae(name, seed).patcher


def _replace_autoencoder(vae: comfy.sd.VAE, model: torch.nn.Module, weights: Weights) -> None:
    """Put another autoencoder into a VAE, whose constructor supports StageA in one size only."""
    model.load_state_dict(weights)
    vae.first_stage_model = model.eval()
    vae.patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )


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
        family: "portraits", which is trained, or another key of `FAMILIES`.
        seed: of the random weights; equal seeds give equal bits in every process.
        dtype: of the diffusion model's weights; text encoders and autoencoder are in float32.
        v_prediction: the diffusion model predicts v instead of the noise, as SD 2.1 at 768 pixels does.
        embedding_directory: folder or folders with textual inversion files.

    Returns:
        The model, the text encoders, the autoencoder.

    Raises:
        ValueError: the family is unknown, or v_prediction is set for a trained family.
    """
    if family not in FAMILIES:
        raise ValueError(f"Unknown family {family!r}: expected one of {', '.join(FAMILIES)}.")
    if v_prediction and FAMILIES[family].file:
        raise ValueError(f"family {family!r} is trained: what it predicts cannot be chosen with v_prediction.")
    unet = load_unet(family, seed, dtype, v_prediction)
    return unet, load_clip(family, seed, embedding_directory), load_vae(family, seed)
