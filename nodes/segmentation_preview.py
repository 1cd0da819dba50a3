"""MagicFaceSegmentationPreview: which pixels belong to which concept."""

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..attention.regions import resize_nearest
from ..sampling.errors import error_prefix
from ..sampling.regions.history import RegionHistory, StepRegions
from .drawing.regions import draw_regions, reduced, strip
from .sampled_latent import LAST, MAX_STEP, finite_samples, histories_of, pictures_of
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
                    min=-MAX_STEP,
                    max=MAX_STEP,
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
        with error_prefix("MagicFaceSegmentationPreview"):
            samples = finite_samples(latent)
            found = histories_of(samples)
            pictures = pictures_of(image, samples)
            previews, masks = [], []
            for (history, index), picture in zip(found, pictures, strict=True):
                at = _at_step(history, step)
                maps = _maps(at, index, picture)
                masks += [maps[0] == concept for concept in range(len(history.concept_names))]
                if all_steps and history.steps:
                    previews.append(_all_steps(history, index, reduced(picture), image is not None))
                else:
                    previews.append(draw_regions(picture, *maps, history.concept_names, image is not None))
            if len({preview.shape for preview in previews}) > 1:
                raise ValueError("latent: its pictures come from runs of different lengths; show them one by one")
        preview = torch.stack(previews)
        return io.NodeOutput(preview, torch.stack(masks).float(), ui=ui.PreviewImage(preview, cls=cls))


def _all_steps(history: RegionHistory, index: int, picture: Tensor, translucent: bool) -> Tensor:
    """(H, W, 3) the regions of all steps over one picture."""
    return strip(
        {
            at.step: draw_regions(picture, *_maps(at, index, picture), history.concept_names, translucent)
            for at in history.steps
        }
    )


def _at_step(history: RegionHistory, step: int) -> StepRegions | None:
    """The regions of a step; None where the run has none at all."""
    if not history.steps:
        return None
    known = {at.step: at for at in history.steps}
    number = step if step >= 0 else max(known) + 1 + step
    if number not in known:
        raise ValueError(f"step: {step} has no regions; those that have are {min(known)} to {max(known)}")
    return known[number]


def _maps(at: StepRegions | None, index: int, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Concepts (H_px, W_px) int64 and foreground (H_px, W_px) bool of one picture."""
    size = picture.shape[:2]
    if at is None:
        return torch.full(size, -1), torch.zeros(size, dtype=torch.bool)
    concepts, foreground = at.concepts[index : index + 1].long(), at.foreground[index : index + 1]
    return resize_nearest(concepts, size)[0], resize_nearest(foreground, size)[0]


NODES = [MagicFaceSegmentationPreview]
