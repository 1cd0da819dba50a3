"""MagicFaceCorrespondence: which place of the picture matches which place of a reference."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..attention.looking import NOWHERE, correspondence
from ..sampling.naming import naming
from .attention_picture import Cell, colours_over, polar_colours, sheet
from .recorded_gaze import View, inputs, picture_input, views
from .sockets import CATEGORY


class MagicFaceCorrespondence(io.ComfyNode):
    """Feature correspondence in colours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceCorrespondence",
            display_name="MagicFace Correspondence",
            category=CATEGORY,
            description="Colours the concepts' regions by a colour wheel, and each place of the references by the place"
            " of the picture that looks at it most.",
            search_aliases=["feature correspondence", "attention visualization", "matching", "polar colour map"],
            is_output_node=True,
            inputs=[*inputs(), picture_input()],
            outputs=[
                io.Image.Output(
                    "view",
                    tooltip="A sheet for each picture: its regions in colours, and the references in the colours of"
                    " what looks at them most.",
                )
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], step: int, block: str, image: Tensor | None = None) -> io.NodeOutput:
        with naming("MagicFaceCorrespondence"):
            drawn = torch.stack([sheet([_row(view)]) for view in views(latent, step, block, image)])
        return io.NodeOutput(drawn, ui=ui.PreviewImage(drawn, cls=cls))


def _row(view: View) -> list[Cell]:
    """The picture, and each reference in the picture's colours."""
    subject = torch.nonzero(view.regions >= 0).flatten()
    colours = polar_colours(view.gaze.grid, subject if len(subject) else torch.arange(len(view.regions)))
    cells = [Cell(colours_over(view.picture, colours, view.shown(subject)), view.where)]
    for index, (concept, pictures) in enumerate(zip(view.concepts, view.references, strict=True)):
        region = torch.nonzero(view.regions == index).flatten()
        matches = correspondence(view.gaze, view.place, index, region) if len(region) else []
        for number, picture in enumerate(pictures):
            match = matches[number] if matches else torch.full((1, 1), NOWHERE)
            taken = colours.flatten(0, 1)[match.clamp(min=0)]
            cells.append(Cell(colours_over(picture, taken, match != NOWHERE), concept))
    return cells


NODES = [MagicFaceCorrespondence]
