"""Masks of a concept, found by the words of a caption (docs/method.md#masks-from-words)."""

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...attention.blocks import concept_mask_blocks
from ...attention.concept_map import above, relative_map
from ..conditioning.prompt import PromptTokens, Token, read_tokens
from ..conditioning.words import near_words
from ..errors import error_prefix
from ..families.unet import LATENT_PX, layout_of, unet_of
from ..method import Reference
from .edges import fit_to_edges
from .encoding import check_fits, check_texts, encode_reference
from .map_reading import Reading, loaded, read_maps
from .noise import SeededNoise

# Measured (docs/evaluation.md#masks-from-words).
DEFAULT_THRESHOLD = 0.25
DEFAULT_EDGE_PX = 24
LEVELS = (0.2, 0.3, 0.4)
NOISES = 1


@dataclass(frozen=True)
class MaskSettings:
    """How a concept's mask is made.

    Attributes:
        threshold: the pixels whose attention is above this part of the strongest belong to the concept, 0..1.
        edge_px: reach of the fit to the picture's edges, in pixels of the encoded picture; 0 for none.
        blocks: names of blocks, see `attention.blocks`.
        levels, noises: see `Reading`.
    """

    threshold: float = DEFAULT_THRESHOLD
    edge_px: int = DEFAULT_EDGE_PX
    blocks: str = "auto"
    levels: tuple[float, ...] = LEVELS
    noises: int = NOISES


def concept_masks(
    model: Any,
    clip: Any,
    vae: Any,
    image: Tensor,
    caption: str,
    concept: str,
    size_px: int,
    settings: MaskSettings | None = None,
) -> Tensor:
    """Find a concept in pictures by the words of their caption.

    Args:
        model, clip, vae: ComfyUI's, of one checkpoint. The model stays as it is.
        image: (V, H, W, 3 or 4) in 0..1; alpha is ignored.
        caption: what the pictures show.
        concept: the words of the caption that name the concept.
        size_px: see `encode_reference`.
        settings: how the masks are made.

    Returns:
        (V, H, W) float32, 1 where the concept is and 0 elsewhere, in main memory.

    Raises:
        ValueError: names the wrong input and says what to do.
    """
    settings = settings or MaskSettings()
    with error_prefix("model"):
        layout = layout_of(unet_of(model))
    with error_prefix("blocks"):
        blocks = concept_mask_blocks(settings.blocks, layout)
    phrase = check_texts(vae, clip, caption, concept)
    positions = _positions(read_tokens(clip, caption), phrase, concept.strip())
    image = image[..., :3] if image.ndim == 4 and image.shape[-1] == 4 else image
    encoded = encode_reference(image, None, vae, clip, caption, concept, size_px)
    check_fits(encoded, model, text_input="clip", picture_input="vae")
    reading = Reading(positions, blocks, settings.levels, settings.noises, SeededNoise(0))
    size = encoded.latents.shape[-2] * LATENT_PX, encoded.latents.shape[-1] * LATENT_PX
    masks = []
    for picture, maps in zip(image.split(1), word_maps(model, encoded, reading), strict=True):
        guide = picture.float().cpu().clamp(0, 1).movedim(-1, 1)
        masks.append(above(fit_to_edges(guide, relative_map(maps), settings.edge_px, size), settings.threshold))
    _check_found(masks, concept, settings.threshold)
    return torch.cat(masks)


def word_maps(model: Any, encoded: Reference, reading: Reading) -> list[Tensor]:
    """For each picture the maps (1, t, H2, W2) of the concept's words, averaged over levels, noises, blocks."""
    latents, device = encoded.latents, model.load_device
    bar = comfy.utils.ProgressBar(len(latents) * len(reading.levels))
    found = []
    with loaded(model, (reading.noises, *latents.shape[1:]), encoded.conditioning) as base:
        for latent in latents.split(1):
            of_levels = []
            for maps in read_maps(base, latent, encoded.conditioning, reading, device, model.model_options):
                of_levels.append(maps)
                bar.update(1)
            found.append(torch.stack(of_levels).mean(dim=0))
    return found


def _positions(prompt: PromptTokens, phrase: tuple[Token, ...], concept: str) -> list[int]:
    """The positions of the concept's words in the caption."""
    positions = prompt.positions(phrase)
    if not positions:
        near = " or ".join(map(repr, near_words(concept, prompt.words)))
        raise ValueError(
            f"concept: {concept!r} is not in the caption, whose words are {', '.join(prompt.words)}"
            f"{f'; did you mean {near}?' if near else '.'} Name the concept in the caption with exactly these words"
        )
    return positions


def _check_found(masks: list[Tensor], concept: str, threshold: float) -> None:
    empty = [str(number + 1) for number, mask in enumerate(masks) if not mask.any()]
    if empty:
        raise ValueError(
            f"concept: {concept!r} was found nowhere in picture {', '.join(empty)} of {len(masks)} at a threshold of"
            f" {threshold:g}; lower threshold, use a plainer word in caption and concept, or draw the mask by hand"
        )
