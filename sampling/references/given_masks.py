"""Masks as they are given: of several shapes and kinds, with a black that is not quite black, or as alpha."""

import logging
import math

import torch
from torch import Tensor

from ..families.unet import LATENT_PX

log = logging.getLogger(__name__)

BLACK = 0.08
"""Values up to here, 20 of 255, count as black: floors of JPEG files and of video, whose black is 16 of 255."""

_ASPECT_TOLERANCE = 0.02
_FAINT = 0.25
_LABEL = 1.01 / 255
_TOKEN_PX = 2 * LATENT_PX  # of an encoded picture, on the r = 2 grid


def masks_of(image: Tensor, mask: Tensor | None) -> tuple[Tensor, list[str]]:
    """The masks of pictures, (V, H_px, W_px) float32 in 0..1 in main memory; and what is doubtful about them.

    Args:
        image: (V, H_px, W_px, 3 or 4) in 0..1. A fourth channel is alpha, and serves where there is no mask.
        mask: (V, H', W') in 0..1 of the same aspect, also (H', W'), (V, 1, H', W') or (V, H', W', 1); or None.

    Raises:
        ValueError: names the wrong input and says what to do.
    """
    if mask is None:
        return _alpha_masks(image) if image.shape[-1] == 4 else (torch.ones(image.shape[:3]), [])
    masks = _fitting_masks(mask, image)
    return masks, _inverse_masks(masks, image)


def without_floor(masks: Tensor) -> Tensor:
    """The masks with 0 for all that counts as black. All other values stay as they are."""
    return torch.where(masks > BLACK, masks, 0.0)


def slight_masks(masks: Tensor, latent_size: tuple[int, int]) -> list[str]:
    """A sentence for each mask under which a reference can do next to nothing.

    Args:
        masks: (V, H_px, W_px) in 0..1.
        latent_size: (h, w) of the views' latents.
    """
    tokens = latent_size[0] * latent_size[1] * (LATENT_PX / _TOKEN_PX) ** 2
    notes = []
    for view, mask in enumerate(masks):
        covered = int((mask > 0).sum())
        strongest, share = float(mask.max()), float(mask.mean(dtype=torch.float64))
        if strongest < _FAINT or share * tokens < 1:
            why = "faint" if strongest < _FAINT else "less than one of the model's tokens"
            notes.append(
                f"the mask of picture {view + 1} has {covered} pixel(s) ({100 * covered / mask.numel():.2g} % of the"
                f" picture) and a strongest value of {strongest:.2g}, which is {why}: the reference will do next to"
                " nothing. Mark the concept in white, or crop the picture to it."
            )
    return notes


def log_notes(notes: list[str]) -> None:
    """Log what is doubtful about masks."""
    for note in notes:
        log.warning("MagicFace: %s", note)


def _alpha_masks(image: Tensor) -> tuple[Tensor, list[str]]:
    """Masks from the pictures' alpha; of the whole picture where that marks nothing."""
    masks, notes = without_floor(image[..., 3].float().cpu().clamp(0.0, 1.0)), []
    for view, mask in enumerate(masks):
        if not mask.any():
            mask.fill_(1.0)
            notes.append(f"picture {view + 1} is all transparent and has no mask; all of it counts.")
        elif (mask < 1).any():
            log.info(
                "MagicFace: picture %d has no mask, so its alpha serves as one (%.0f %% of the picture).",
                view + 1,
                100 * float((mask > 0).float().mean()),
            )
    return masks, notes


def _fitting_masks(mask: Tensor, image: Tensor) -> Tensor:
    """The masks, checked and resized to the pictures."""
    views, height, width = image.shape[:3]
    mask = _one_by_one(mask, views)
    if len(mask) != views:
        raise ValueError(f"mask: {len(mask)} for {views} pictures; {_advice(len(mask), views)}")
    mask = plain_masks(mask, "mark the concept, or leave the input unconnected to use the whole picture")
    ratio = (mask.shape[2] / mask.shape[1]) / (width / height)
    if abs(math.log(ratio)) > _ASPECT_TOLERANCE:
        raise ValueError(
            f"mask: is {mask.shape[2]}x{mask.shape[1]} and the picture {width}x{height}, which are different shapes;"
            " use the mask that was drawn on this picture"
        )
    if mask.shape[1:] != (height, width):
        mask = torch.nn.functional.interpolate(mask[:, None], size=(height, width), mode="nearest-exact")[:, 0]
    return mask


def plain_masks(mask: Tensor, remedy: str) -> Tensor:
    """(n, H, W) float32 in 0..1, in main memory: masks in any of the shapes and kinds that nodes give them.

    The remedy is what to do about an empty one, for the message.

    Raises:
        ValueError: names the input and says what to do.
    """
    mask = _one_by_one(mask, len(mask)).float().cpu()
    if not torch.isfinite(mask).all() or mask.min() < -1e-3 or mask.max() > 1 + 1e-3:
        raise ValueError(
            f"mask: has values outside 0..1 or not finite (from {float(mask.min()):g} to {float(mask.max()):g});"
            " check the node it comes from"
        )
    marked = torch.stack([_marked(single, number, len(mask), remedy) for number, single in enumerate(mask)])
    return marked.clamp(0.0, 1.0)


def _one_by_one(mask: Tensor, views: int) -> Tensor:
    """(n, H, W) of a mask in any of the shapes that nodes give it."""
    shape = tuple(mask.shape)
    if mask.ndim in (3, 4) and shape[-1] == 1 and shape[1] != 1 and (mask.ndim == 4 or shape[0] != views):
        mask = mask[..., 0]
    elif mask.ndim == 4 and shape[-1] in (3, 4) and shape[1] > 4:
        raise ValueError(f"mask: has shape {shape}, that of a picture; make a mask of it with Convert Image to Mask")
    if mask.ndim not in (2, 3, 4) or 0 in shape:
        raise ValueError(f"mask: has shape {shape}; give one of (views, height, width)")
    return mask.reshape(-1, *mask.shape[-2:])


def _advice(masks: int, views: int) -> str:
    """What to do where there is another number of masks than of pictures."""
    if masks == 1:
        return (
            "give each picture its own mask, in the same order. To use this one for all, repeat it: Convert Mask to"
            f" Image, Repeat Image Batch (amount {views}), Convert Image to Mask"
        )
    advice = "give each picture its own mask, in the same order"
    if views == 1:
        return (
            f"{advice}. To join them, add them up with Combine Masks (MaskComposite, operation add); to choose one:"
            " Convert Mask to Image, Get Image from Batch, Convert Image to Mask; to make each a view, repeat the"
            f" picture with Repeat Image Batch (amount {masks})"
        )
    return f"{advice}: join masks of one picture with Combine Masks (MaskComposite, operation add), or repeat pictures"


def _marked(mask: Tensor, view: int, views: int, remedy: str) -> Tensor:
    """One mask (H, W) without its floor; labels of 0 and 1 in 8 or 16 bits as 0 and 1."""
    strongest = float(mask.max())
    if strongest > BLACK:
        return without_floor(mask)
    which = f"picture {view + 1} of {views}"
    marked = mask > 0
    if not marked.any():
        hint = ""
        if mask.shape == (64, 64):
            hint = (
                " (64x64 and all zero is what LoadImage gives for a picture without transparency: draw a mask"
                " with the mask editor, or load one with Load Image (as Mask), channel red)"
            )
        raise ValueError(f"mask: is empty for {which}{hint}; {remedy}")
    if strongest <= _LABEL and not marked.all() and bool((mask[marked] == mask.max()).all()):
        log.info("MagicFace: the mask of %s has the values 0 and %.2g only; taken as labels 0 and 1.", which, strongest)
        return marked.float()
    raise ValueError(
        f"mask: is nearly empty for {which}: its strongest value is {strongest:.2g} ({strongest * 255:.2g} of 255), and"
        f" values up to {BLACK} count as black; mark the concept in white (of labels 0, 1, 2, ... choose one and make"
        " it white), and use weight in MagicFace Mask Weight for a weaker reference"
    )


def _inverse_masks(masks: Tensor, image: Tensor) -> list[str]:
    """A sentence for each mask that seems to mark the background, as Load Image's mask of a cut-out does."""
    notes = []
    for view, (mask, picture) in enumerate(zip(masks, image, strict=True)):
        marked = mask > 0
        if bool(marked.all()):
            continue
        seen = ""
        if picture.shape[-1] == 4:
            alpha = picture[..., 3].float().cpu()
            if (mask - (1 - alpha)).abs().mean() < 0.05 < (mask - alpha).abs().mean():
                seen = "is the inverse of its alpha"
        inside = picture[..., :3].cpu()[marked]
        if not seen and len(inside) > 1 and bool((inside == inside[0]).all()):
            seen = "marks a part of a single colour"
        if seen:
            notes.append(
                f"the mask of picture {view + 1} {seen}. If it marks the background, as Load Image's mask of a cut-out"
                " does, set invert in MagicFace Mask Weight."
            )
    return notes
