"""Seeded random weights for any module."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import nn

# fmt: off
# Suffix of a layer's name -> factor on a weight that would preserve the variance of a unit input. The std of the
# attention scores is then 1 to 2, and a small change grows a few times in a sampling run (but a hundred times with
# 1.7 for attn1).
UNET_GAINS = {
    "blocks.1.attn1.to_q": 2.2, "blocks.1.attn1.to_k": 2.2,  # its input tokens are very similar to each other
    "attn1.to_q": 1.4, "attn1.to_k": 1.4, "attn2.to_q": 1.7, "attn2.to_k": 1.7,
    "attn1.to_out.0": 2.2, "attn2.to_out.0": 1.8,
}
TEXT_GAINS = {"q_proj": 1.4, "k_proj": 1.4, "token_embedding": 0.6, "position_embedding": 0.3}
CARRY, OWN = 1.0, 0.35  # shares of the predicted noise: the UNet's input, and the result of its layers
# fmt: on


def random_weights(
    module: nn.Module,
    seed: str,
    gains: Mapping[str, float],
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> dict[str, torch.Tensor]:
    """Random weights for every layer of a module.

    The shapes follow from the layers' sizes, since ComfyUI may create the parameters only when it loads weights.

    Args:
        module: the module; it is only read.
        seed: any text; equal texts give equal weights.
        gains: suffix of a layer's name -> factor on its weight; the first match counts.
        dtype: of the result. Each weight is drawn in float32 and converted at once, so that large models never exist in
            float32.
        device: where they are drawn, which is faster on a GPU and gives other weights there; None for the CPU.

    Returns:
        A state dict for `module`, in main memory.
    """
    generator = torch.Generator(device or "cpu").manual_seed(zlib.crc32(seed.encode()))

    def normal(shape: tuple[int, ...], std: float, mean: float = 0.0) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator, device=generator.device)
        return (mean + drawn * std).to(dtype).cpu()

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
            shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
            weights[f"{name}.weight"] = normal(shape, gain / math.sqrt(math.prod(shape[1:])))
            if layer.bias is not None:
                weights[f"{name}.bias"] = normal(shape[:1], 0.1)
        elif isinstance(layer, nn.ConvTranspose2d):
            shape = (layer.in_channels, layer.out_channels, *layer.kernel_size)
            fan_in = layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
            weights[f"{name}.weight"] = normal(shape, gain / math.sqrt(fan_in))
            weights[f"{name}.bias"] = normal((layer.out_channels,), 0.1)
        elif isinstance(layer, nn.Embedding):
            weights[f"{name}.weight"] = normal((layer.num_embeddings, layer.embedding_dim), gain)
        elif isinstance(layer, (nn.GroupNorm, nn.LayerNorm)) and layer.weight is not None:
            channels = layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.normalized_shape[0]
            weights[f"{name}.weight"] = normal((channels,), 0.1, mean=1.0)
            weights[f"{name}.bias"] = normal((channels,), 0.05)
    return weights


def carry_input(weights: dict[str, torch.Tensor], last: int) -> None:
    """Make a random UNet predict mostly its own input, so that sampling reduces the noise as with a trained UNet.

    The first block outputs x and -x in addition to its random features, the shortcut of the last output block passes
    them on unchanged, and the last layer computes silu(x) - silu(-x) = x of the normalised pair.

    Args:
        weights: the UNet's state dict, changed in place.
        last: index of the last output block.
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
