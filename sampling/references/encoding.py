"""Reference encoding: from the pictures, masks and caption of one concept to a `Reference`."""

from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..conditioning.prompt import Token, read_tokens
from ..errors import error_prefix
from ..families.clip import default_side_px
from ..families.unet import LATENT_PX, context_width, unet_of
from ..method import Reference
from .cropping import crop_to_masks, encoded_size
from .given_masks import log_notes, masks_of, slight_masks

CROP_MARGIN = 0.5
"""What is left around a cropped concept on each side, as a part of its longer side: measured, docs/evaluation.md."""
_MAX_SHOWN_PX = 512
_OVERSHOOT = 0.5  # decoders and resizing leave some


def encode_reference(
    image: Tensor,
    mask: Tensor | None,
    vae: Any,
    clip: Any,
    caption: str,
    concept: str,
    size_px: int,
    crop: bool = False,
) -> Reference:
    """Encode the views of one concept.

    Args:
        image: (V, H, W, 3 or 4) in 0..1.
        mask: (V, H', W') in 0..1 of the same aspect, or None for the alpha, or the whole picture where there is none.
        vae, clip: ComfyUI's VAE and CLIP.
        caption: what the pictures show.
        concept: phrase that names the concept in the target prompt.
        size_px: the encoded picture has the area of a square of this side; 0 = chosen by the text encoder.
        crop: whether only the part that the masks mark is encoded, with a margin; see `crop_to_masks`.

    Raises:
        ValueError: names the wrong input and says what to do.
    """
    concept_tokens = check_texts(vae, clip, caption, concept)
    _check_image(image)
    masks, notes = masks_of(image, mask)
    image = _readable(image)

    tokens = clip.tokenize(caption)
    side_px = size_px or default_side_px(tokens)
    if crop and bool((masks > 0).all()):
        notes.append("there is nothing to crop to: without a mask the whole picture is the concept.")
    elif crop:
        image, masks = crop_to_masks(image, masks, CROP_MARGIN, side_px)
    height, width = encoded_size(image.shape[1], image.shape[2], side_px)
    pixels = comfy.utils.common_upscale(image[..., :3].movedim(-1, 1), width, height, "lanczos", "disabled")
    log_notes([*notes, *slight_masks(masks, (height // LATENT_PX, width // LATENT_PX))])
    return Reference(
        concept=concept.strip(),
        concept_tokens=concept_tokens,
        caption=caption,
        conditioning=clip.encode_from_tokens_scheduled(tokens),
        latents=_encoded(vae, pixels.movedim(1, -1)),
        masks=masks,
        pictures=_small(image),
        mask_notes=tuple(notes),
    )


def check_texts(vae: Any, clip: Any, caption: str, concept: str) -> tuple[Token, ...]:
    """The tokens of a concept's phrase, after checks of all that is not a picture.

    Raises:
        ValueError: names the wrong input and says what to do.
    """
    for name, given in (("vae", vae), ("clip", clip)):
        if given is None:
            raise ValueError(f"{name}: is empty, the checkpoint holds none; connect one from Load {name.upper()}")
    if not caption.strip():
        raise ValueError("caption: is empty; say what the picture shows, such as 'a cartoon boy wearing a hat'")
    with error_prefix("clip"):
        concept_tokens = read_tokens(clip, concept).content
    if not concept.strip() or not concept_tokens:
        raise ValueError(f"concept: {concept!r} has no words; give the phrase that names it in the target prompt")
    return concept_tokens


def _encoded(vae: Any, pixels: Tensor) -> Tensor:
    """(V, ch, h, w) latents of pixels (V, h_px, w_px, 3). Encoded one by one, a view's bits do not depend on others."""
    bar = comfy.utils.ProgressBar(len(pixels))
    latents = []
    for view in pixels.split(1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        latents.append(vae.encode(view).float().cpu())
        bar.update(1)
    return latents[0] if len(latents) == 1 else torch.cat(latents)  # torch.cat would change the memory format


def check_fits(reference: Reference, model: Any, text_input: str, picture_input: str, target: str = "") -> None:
    """Check that a reference was encoded with the text encoder and the VAE of a model's checkpoint.

    Args:
        reference: the encoded reference.
        model: ComfyUI's ModelPatcher.
        text_input, picture_input: the inputs that errors name for the one and the other.
        target: ends the advice, such as " to MagicFace Reference".

    Raises:
        ValueError: the text's width or the latents' channels are not those of the model.
    """
    given, width = reference.conditioning[0][0].shape[-1], context_width(unet_of(model))
    if given != width:
        raise ValueError(
            f"{text_input}: the caption of {reference.concept!r} was encoded {given} wide and this model reads {width}:"
            f" connect the CLIP of the same checkpoint{target}"
        )
    channels, expected = reference.latents.shape[1], model.model.latent_format.latent_channels
    if channels != expected:
        raise ValueError(
            f"{picture_input}: the picture of {reference.concept!r} was encoded to {channels} channels and this model"
            f" has {expected}: connect the VAE of the same checkpoint{target}"
        )


def _small(image: Tensor) -> Tensor:
    """(V, h_px, w_px, 3) uint8 thumbnails, no side longer than 512."""
    height, width = image.shape[1:3]
    scale = min(1.0, _MAX_SHOWN_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = comfy.utils.common_upscale(image[..., :3].float().cpu().movedim(-1, 1), *size, "area", "disabled")
    return (small.movedim(1, -1).clamp(0, 1) * 255).round().to(torch.uint8)


def _readable(image: Tensor) -> Tensor:
    """The pictures, in a precision that pillow can read. bfloat16 holds no more than 8 bits, so these are rounded."""
    return (image.float() * 255).round() / 255 if image.dtype is torch.bfloat16 else image


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or image.shape[0] == 0 or image.shape[-1] not in (3, 4):
        raise ValueError(f"image: expected pictures of shape (views, height, width, 3), got {tuple(image.shape)}")
    if not image.is_floating_point():
        raise ValueError(f"image: has values of {image.dtype}; give pictures of numbers from 0 to 1")
    if not torch.isfinite(image).all():
        raise ValueError("image: has values that are not finite (NaN or infinite); check the node it comes from")
    lowest, highest = float(image.min()), float(image.max())
    if lowest < -_OVERSHOOT or highest > 1 + _OVERSHOOT:
        raise ValueError(f"image: has values from {lowest:g} to {highest:g}; give pictures of numbers from 0 to 1")
