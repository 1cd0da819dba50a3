"""The anatomy of each small model: ComfyUI's description of its family, and sizes of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import comfy.supported_models

TEXT_LAYERS = 3  # SDXL uses the second last layer, and ComfyUI requires more layers than it skips


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        config: ComfyUI's description of it.
        unet: parameters of the small UNet.
        text: width of each text encoder, by name.
        file: name of the trained weights in this folder; None for random weights.
        vae: parameters of the trained autoencoder.
        v_prediction: the trained UNet predicts v (arXiv 2202.00512) instead of the noise.
    """

    config: Any
    unet: Mapping[str, Any]
    text: Mapping[str, int]
    file: str | None = None
    vae: Mapping[str, Any] = field(default_factory=dict)
    v_prediction: bool = False


class UnclipSmall(comfy.supported_models.SD21UnclipL):
    """SD 2.1 unCLIP for small embeddings."""

    noise_aug_config: ClassVar = {**comfy.supported_models.SD21UnclipL.noise_aug_config, "timestep_dim": 24}


# fmt: off
VAE: dict[str, Any] = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    },
}

# For ComfyUI's StageA, with one more level. Unlike a narrow KL autoencoder it has no norm that removes the mean colour.
VAE_PORTRAITS: dict[str, Any] = {"levels": 3, "bottleneck_blocks": 3, "c_hidden": 192, "codebook_size": 1}

UNET: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "legacy": False,
    "use_spatial_transformer": True, "use_temporal_attention": False, "use_temporal_resblock": False,
}
# Attention at a half and a quarter of the latent's resolution; depths 1 and 2 instead of 2 and 10.
UNET_SDXL: dict[str, Any] = {
    **UNET, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 16,
    "context_dim": 32 + 48, "num_classes": "sequential", "adm_in_channels": 48 + 6 * 256,
}
# Twice as wide at the latent's resolution, where patterns need it.
UNET_PORTRAITS = {**UNET_SDXL, "model_channels": 64, "channel_mult": [1, 1, 2], "num_head_channels": 32}
# Attention in all levels but the lowest, which has it in the middle block only.
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

# The differences of SDXL's inpainting UNets and refiner from SDXL; and SD 2.1 with the embedding of a picture.
UNET_INPAINT = {**UNET_SDXL, "in_channels": 9}
UNET_REFINER: dict[str, Any] = {
    **UNET_SD, "transformer_depth": [0, 0, 2, 2, 2, 2, 0, 0], "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0],
    "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 16,
    "context_dim": 48, "num_classes": "sequential", "adm_in_channels": 48 + 5 * 256,
}
UNET_UNCLIP = {**UNET_SD2, "num_classes": "sequential", "adm_in_channels": 2 * 24}

# For measurements: SDXL's depths and head size at a fifth of its width; and SDXL itself.
UNET_NARROW: dict[str, Any] = {
    **UNET_SDXL, "model_channels": 64, "num_head_channels": 64,
    "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}
UNET_FULL = {**UNET_NARROW, "model_channels": 320, "context_dim": 768 + 1280, "adm_in_channels": 1280 + 6 * 256}

PORTRAITS = Family(
    comfy.supported_models.SDXL,
    UNET_PORTRAITS,
    {"clip_l": 32, "clip_g": 48},
    "portraits.safetensors",
    VAE_PORTRAITS,
    v_prediction=True,
)
FAMILIES: dict[str, Family] = {
    "portraits": PORTRAITS,
    "sdxl": Family(comfy.supported_models.SDXL, UNET_SDXL, {"clip_l": 32, "clip_g": 48}),
    "sd2": Family(comfy.supported_models.SD20, UNET_SD2, {"clip_h": 48}),
    "sd1": Family(comfy.supported_models.SD15, UNET_SD1, {"clip_l": 32}),
    "inpaint": Family(comfy.supported_models.SDXL, UNET_INPAINT, {"clip_l": 32, "clip_g": 48}),
    "refiner": Family(comfy.supported_models.SDXLRefiner, UNET_REFINER, {"clip_g": 48}),
    "unclip": Family(UnclipSmall, UNET_UNCLIP, {"clip_h": 48}),
}
MEASURED: dict[str, Family] = {
    "narrow": Family(comfy.supported_models.SDXL, UNET_NARROW, {"clip_l": 32, "clip_g": 48}),
    "full": Family(comfy.supported_models.SDXL, UNET_FULL, {"clip_l": 768, "clip_g": 1280}),
}
# fmt: on
