"""MagicFaceSegmentationPreview: shows which pixels belong to which concept."""

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..sampling.errors import error_prefix
from ..sampling.regions.history import RegionHistory, StepRegions
from .drawing.regions import draw_regions, reduce_for_strip, resize_regions, strip
from .sampled_latent import finite_samples, histories_of, pictures_of, step_input
from .sockets import CATEGORY


class MagicFaceSegmentationPreview(io.ComfyNode):
    """Shows the regions of a sampled picture, and outputs them as masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceSegmentationPreview",
            display_name="MagicFace Segmentation Preview",
            category=CATEGORY,
            description="Shows which pixels of a sampled picture belong to which concept, and outputs them as masks.",
            search_aliases=["regions", "segmentation mask", "attention mask", "concept masks"],
            is_output_node=True,
            inputs=[
                io.Latent.Input("latent", tooltip="The output of a sampler whose model went through MagicFace Apply."),
                step_input(
                    "Step of the sampler, from 0. Negative numbers count from the end: -1 = the last that has regions."
                ),
                io.Image.Input("image", optional=True, tooltip="The picture to draw over, such as the decoded latent."),
                io.Boolean.Input(
                    "all_steps",
                    default=False,
                    optional=True,
                    tooltip="Show the regions of all steps, five in a row. The masks are still those of the chosen"
                    " step.",
                ),
            ],
            outputs=[
                io.Image.Output("preview", tooltip="Coloured regions, with a legend of the concepts and their shares."),
                io.Mask.Output(
                    "masks",
                    tooltip="One mask for each concept and picture, at the picture's size. Order: all concepts of the"
                    " first picture as in the legend, then those of the second, and so on.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, latent: dict[str, Any], step: int, image: Tensor | None = None, all_steps: bool = False
    ) -> io.NodeOutput:
        with error_prefix("MagicFaceSegmentationPreview"):
            samples = finite_samples(latent)
            previews, masks = [], []
            for (history, index), picture in zip(histories_of(samples), pictures_of(image, samples), strict=True):
                at, names, translucent = _at_step(history, step), history.concept_names, image is not None
                concepts, _ = resize_regions(at, index, picture.shape[:2])
                masks += [concepts == concept for concept in range(len(names))]
                if all_steps and history.steps:
                    small = reduce_for_strip(picture)
                    steps = {at.step: draw_regions(small, at, index, names, translucent) for at in history.steps}
                    previews.append(strip(steps))
                else:
                    previews.append(draw_regions(picture, at, index, names, translucent))
            if len({preview.shape for preview in previews}) > 1:
                raise ValueError("latent: its pictures come from runs of different lengths; show them one by one")
        preview = torch.stack(previews)
        return io.NodeOutput(preview, torch.stack(masks).float(), ui=ui.PreviewImage(preview, cls=cls))


def _at_step(history: RegionHistory, step: int) -> StepRegions | None:
    """The regions of a step; None if the run has none at all."""
    if not history.steps:
        return None
    known = {at.step: at for at in history.steps}
    number = step if step >= 0 else max(known) + 1 + step
    if number not in known:
        raise ValueError(f"step: {step} has no regions; steps {min(known)} to {max(known)} have some")
    return known[number]


NODES = [MagicFaceSegmentationPreview]
