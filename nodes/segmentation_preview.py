"""MagicFaceSegmentationPreview: which pixels the method gave to which concept."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..attention.regions import carry
from ..sampling.naming import naming
from ..sampling.recording import STORE, Recording, StepRegions
from .region_picture import draw_regions
from .sockets import CATEGORY

LAST = -1
_MOST_STEPS = 10000
_LATENT_PX = 8


class MagicFaceSegmentationPreview(io.ComfyNode):
    """Regions of a sampled picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceSegmentationPreview",
            display_name="MagicFace Segmentation Preview",
            category=CATEGORY,
            description="Shows which pixels of a sampled picture belong to which concept, and gives them as masks.",
            search_aliases=["regions", "segmentation mask", "attention mask", "concept masks"],
            is_output_node=True,
            inputs=[
                io.Latent.Input("latent", tooltip="The output of a sampler whose model went through MagicFace Apply."),
                io.Int.Input(
                    "step",
                    default=LAST,
                    min=-_MOST_STEPS,
                    max=_MOST_STEPS,
                    tooltip="The sampler's step, from 0. Negative counts from the end: -1 = the last.",
                ),
                io.Image.Input("image", optional=True, tooltip="The picture to draw over, such as the decoded latent."),
            ],
            outputs=[
                io.Image.Output("preview", tooltip="Coloured regions, with a legend of the concepts and their shares."),
                io.Mask.Output(
                    "masks",
                    tooltip="One mask for each concept and picture, at the picture's size: all concepts of the first"
                    " picture in the legend's order, then those of the second, and so on.",
                ),
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], step: int, image: Tensor | None = None) -> io.NodeOutput:
        with naming("MagicFaceSegmentationPreview"):
            samples = latent["samples"]
            found = _recordings(samples)
            pictures = _pictures(image, samples)
            previews, masks = [], []
            for (recording, place), picture in zip(found, pictures, strict=True):
                at = _at_step(recording, step)
                concepts, foreground = _maps(at, place, picture)
                masks += [concepts == index for index in range(len(recording.concepts))]
                previews.append(draw_regions(picture, concepts, foreground, recording.concepts, image is not None))
        preview = torch.stack(previews)
        return io.NodeOutput(preview, torch.stack(masks).float(), ui=ui.PreviewImage(preview, cls=cls))


def _recordings(samples: Tensor) -> list[tuple[Recording, int]]:
    """For each image of the latent its run's recording and its place in that run's batch.

    Raises:
        ValueError: no sampled picture of a run with the method, or pictures with different concepts.
    """
    if samples.ndim != 4:
        raise ValueError(f"latent: has shape {tuple(samples.shape)}; give the latent of an image sampler")
    if not torch.isfinite(samples).all():
        raise ValueError("latent: has values that are not finite (a black picture); sample in a wider number type")
    found = STORE.find(samples)
    if found is None:
        raise ValueError(
            "latent: no run with MagicFace is known for it (it was changed after sampling, was sampled without"
            " MagicFace Apply, or too long ago); connect the sampler's own output and sample it again"
        )
    lists = sorted({recording.concepts for recording, _ in found})
    if len(lists) > 1:
        named = " and ".join(f"({', '.join(names)})" for names in lists)
        raise ValueError(f"latent: its pictures were sampled with different concepts, {named}; preview them one by one")
    return found


def _pictures(image: Tensor | None, samples: Tensor) -> Tensor:
    """(b, H_px, W_px, 3) what to draw over: grey at the latent's size where no picture is given."""
    if image is None:
        return torch.full((len(samples), samples.shape[-2] * _LATENT_PX, samples.shape[-1] * _LATENT_PX, 3), 0.25)
    if len(image) not in (1, len(samples)):
        raise ValueError(f"image: {len(image)} pictures for {len(samples)} latents; give one, or one for each")
    return image[..., :3].cpu().expand(len(samples), -1, -1, -1)


def _at_step(recording: Recording, step: int) -> StepRegions | None:
    """The regions of a step; None where the run has none at all."""
    if not recording.steps:
        return None
    known = {at.step: at for at in recording.steps}
    number = step if step >= 0 else max(known) + 1 + step
    if number not in known:
        raise ValueError(f"step: {step} has no regions; those that have are {min(known)} to {max(known)}")
    return known[number]


def _maps(at: StepRegions | None, place: int, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Concepts (H_px, W_px) int64 and foreground (H_px, W_px) bool of one picture."""
    size = picture.shape[:2]
    if at is None:
        return torch.full(size, -1), torch.zeros(size, dtype=torch.bool)
    concepts, foreground = at.concepts[place : place + 1].long(), at.foreground[place : place + 1]
    return carry(concepts, size)[0], carry(foreground, size)[0]


NODES = [MagicFaceSegmentationPreview]
