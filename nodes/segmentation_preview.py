"""MagicFaceSegmentationPreview: which pixels the method gave to which concept."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..attention.regions import carry
from ..sampling.naming import naming
from ..sampling.recording import Recording, StepRegions
from .latent_picture import LAST, MOST_STEPS, finite_samples, pictures_of, recordings_of
from .region_picture import draw_regions, reduced, strip
from .sockets import CATEGORY


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
                    min=-MOST_STEPS,
                    max=MOST_STEPS,
                    tooltip="The sampler's step, from 0. Negative counts from the end: -1 = the last that has regions.",
                ),
                io.Image.Input("image", optional=True, tooltip="The picture to draw over, such as the decoded latent."),
                io.Boolean.Input(
                    "all_steps",
                    default=False,
                    optional=True,
                    tooltip="Show the regions of all steps, one after another in rows; the masks stay those of the"
                    " chosen step.",
                ),
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
    def execute(
        cls, latent: dict[str, Any], step: int, image: Tensor | None = None, all_steps: bool = False
    ) -> io.NodeOutput:
        with naming("MagicFaceSegmentationPreview"):
            samples = finite_samples(latent)
            found = recordings_of(samples)
            pictures = pictures_of(image, samples)
            previews, masks = [], []
            for (recording, place), picture in zip(found, pictures, strict=True):
                at = _at_step(recording, step)
                maps = _maps(at, place, picture)
                masks += [maps[0] == index for index in range(len(recording.concepts))]
                if all_steps and recording.steps:
                    previews.append(_all_steps(recording, place, reduced(picture), image is not None))
                else:
                    previews.append(draw_regions(picture, *maps, recording.concepts, image is not None))
            if len({preview.shape for preview in previews}) > 1:
                raise ValueError("latent: its pictures come from runs of different lengths; show them one by one")
        preview = torch.stack(previews)
        return io.NodeOutput(preview, torch.stack(masks).float(), ui=ui.PreviewImage(preview, cls=cls))


def _all_steps(recording: Recording, place: int, picture: Tensor, translucent: bool) -> Tensor:
    """(H, W, 3) the regions of all steps over one picture."""
    return strip(
        {
            at.step: draw_regions(picture, *_maps(at, place, picture), recording.concepts, translucent)
            for at in recording.steps
        }
    )


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
