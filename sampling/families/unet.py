"""The UNets of SD 1.x, SD 2.x and SDXL: their transformer blocks, and how to patch the attention in these."""

from collections.abc import Callable, Mapping
from typing import Any

from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, ResBlock, UNetModel, Upsample
from torch import Tensor

from ...attention.blocks import Block

LATENT_PX = 8
"""Picture pixels of one latent pixel's side."""

Patch = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]
"""What computes a block's attention: (q, k, v, extra options) -> attention output."""

ATTENTION_KINDS = ("attn1", "attn2")
"""A block's self-attention and its cross-attention."""


def unet_of(model: Any) -> UNetModel:
    """The UNet of a MODEL.

    Raises:
        ValueError: no image UNet with self-attention in every block (Flux, SD3, video models, the x4 upscaler).
    """
    unet = getattr(model.model, "diffusion_model", None)
    if not isinstance(unet, UNetModel) or any(map(_lacks_spatial_self_attention, unet.modules())):
        raise ValueError(f"{type(model.model).__name__} is not an image UNet; connect an SD 1.x, SD 2.x or SDXL model")
    return unet


def _lacks_spatial_self_attention(module: Any) -> bool:
    return isinstance(module, SpatialVideoTransformer) or bool(getattr(module, "disable_self_attn", False))


def layout_of(unet: UNetModel) -> tuple[Block, ...]:
    """The UNet's transformer blocks in execution order, each with its ratio."""
    blocks: list[Block] = []
    ratio = 1
    for number, module in enumerate(unet.input_blocks):
        if any(isinstance(layer, Downsample) or (isinstance(layer, ResBlock) and layer.updown) for layer in module):
            ratio *= 2
        blocks += _transformers("input", number, module, ratio)
    blocks += _transformers("middle", 0, unet.middle_block or (), ratio)
    for number, module in enumerate(unet.output_blocks):
        blocks += _transformers("output", number, module, ratio)
        if any(isinstance(layer, Upsample) or (isinstance(layer, ResBlock) and layer.updown) for layer in module):
            ratio //= 2
    return tuple(blocks)


def _transformers(stage: str, number: int, module: Any, ratio: int) -> list[Block]:
    depth = sum(len(layer.transformer_blocks) for layer in module if isinstance(layer, SpatialTransformer))
    return [Block(stage, number, index, ratio) for index in range(depth)]


def context_width(unet: UNetModel) -> int:
    """The width of the text that the UNet's cross-attention reads."""
    transformer = next(module for module in unet.modules() if isinstance(module, SpatialTransformer))
    return int(transformer.transformer_blocks[0].attn2.to_k.in_features)


def token_grid(extra_options: Mapping[str, Any]) -> tuple[int, int]:
    """(hh, ww) of the block whose attention is called with these options."""
    hh, ww = extra_options["activations_shape"][2:4]
    return hh, ww


def present_patch(transformer_options: Mapping[str, Any], kind: str, block: Block) -> Patch | None:
    """What another node has put in the place of a block's attention, if anything."""
    entries = transformer_options.get("patches_replace", {}).get(kind, {})
    patch: Patch | None = entries.get(block.key) or entries.get(block.key[:2])
    return patch


def with_attention(
    transformer_options: Mapping[str, Any], patches: Mapping[str, Mapping[Block, Patch]]
) -> dict[str, Any]:
    """A copy of a UNet call's options in which blocks' attention is replaced, by kind of attention and block."""
    replace = {kind: dict(entries) for kind, entries in transformer_options.get("patches_replace", {}).items()}
    for kind, of_blocks in patches.items():
        replace.setdefault(kind, {}).update({block.key: patch for block, patch in of_blocks.items()})
    return {**transformer_options, "patches_replace": replace}
