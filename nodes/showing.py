"""How nodes that show something end: always with a picture, so that they never cost the picture that they show."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..sampling.families.unet import LATENT_PX
from .drawing.note import with_notes

log = logging.getLogger(__name__)
_GREY, _SIDE_PX = 0.25, 512


def plain_pictures(latent: Any, image: Tensor | None) -> Tensor:
    """(b, H, W, 3) in 0..1: the given pictures or, without any, grey ones of the latent's size; whatever comes in."""
    if torch.is_tensor(image) and image.ndim == 4 and image.numel():
        return in_colour(image)
    samples = latent.get("samples") if isinstance(latent, dict) else None
    size = samples.shape if torch.is_tensor(samples) and samples.ndim == 4 and samples.numel() else None
    count, height, width = (1, _SIDE_PX, _SIDE_PX) if size is None else (size[0], *(px * LATENT_PX for px in size[-2:]))
    return torch.full((count, height, width, 3), _GREY)


def in_colour(image: Tensor) -> Tensor:
    """(b, H, W, 3) in 0..1, in main memory: pictures (b, H, W, any number of channels)."""
    colours = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].expand(*image.shape[:-1], 3)
    return colours.float().cpu().nan_to_num().clamp(0, 1)


def show(
    node: Any, draw: Callable[[], tuple[Tensor, Sequence[str], tuple[Any, ...]]], latent: Any, image: Tensor | None
) -> io.NodeOutput:
    """The output of a node that shows something.

    Args:
        node: its class.
        draw: gives pictures (b, H, W, 3), notes, and the further outputs. An error of it becomes the note on the plain
            picture, and further outputs are empty masks.
        latent, image: what the node was given.
    """
    try:
        drawn, notes, more = draw()
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:  # whatever comes in, the picture that it shows is not to be lost
        name = node.GET_SCHEMA().node_id
        if isinstance(error, ValueError):
            log.warning("%s: %s", name, error)
        else:
            log.exception("%s: cannot show this", name)
        drawn, notes = plain_pictures(latent, image), [str(error) or repr(error)]
        more = tuple(torch.zeros(drawn.shape[:3]) for _ in node.GET_SCHEMA().outputs[1:])
    noted = torch.stack([with_notes(picture, notes) for picture in drawn])
    return io.NodeOutput(noted, *more, ui={**ui.PreviewImage(noted, cls=node).as_dict(), "text": tuple(notes)})
