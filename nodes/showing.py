"""How nodes that show something end: always with a picture, so that they never cost the picture that they show."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..sampling.families.unet import LATENT_PX
from .drawing.note import with_notes

log = logging.getLogger(__name__)
_GREY, _SIDE_PX = 0.25, 512


def plain_pictures(latent: Any, image: Tensor | None) -> Tensor:
    """(b, H, W, 3) in 0..1: the given pictures or, without any, grey ones of the latent's size; whatever comes in."""
    if torch.is_tensor(image) and image.ndim == 4 and image.numel() and image.shape[-1] >= 3:
        return image[..., :3].float().cpu().nan_to_num().clamp(0, 1)
    samples = latent.get("samples") if isinstance(latent, dict) else None
    size = samples.shape if torch.is_tensor(samples) and samples.ndim == 4 and samples.numel() else None
    count, height, width = (1, _SIDE_PX, _SIDE_PX) if size is None else (size[0], *(px * LATENT_PX for px in size[-2:]))
    return torch.full((count, height, width, 3), _GREY)


def show(
    node: Any, draw: Callable[[], tuple[Tensor, Sequence[str], tuple[Any, ...]]], latent: Any, image: Tensor | None
) -> io.NodeOutput:
    """The output of a node that shows something.

    Args:
        node: its class.
        draw: gives pictures (b, H, W, 3), notes, and the further outputs. A ValueError of it becomes the note on the
            plain picture, and further outputs are empty masks.
        latent, image: what the node was given.
    """
    try:
        drawn, notes, more = draw()
    except ValueError as error:
        log.warning("%s: %s", node.GET_SCHEMA().node_id, error)
        drawn, notes = plain_pictures(latent, image), [str(error)]
        more = tuple(torch.zeros(drawn.shape[:3]) for _ in node.GET_SCHEMA().outputs[1:])
    noted = torch.stack([with_notes(picture, notes) for picture in drawn])
    return io.NodeOutput(noted, *more, ui={**ui.PreviewImage(noted, cls=node).as_dict(), "text": tuple(notes)})
