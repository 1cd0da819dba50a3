"""MagicFaceCorrespondence: shows which part of the picture matches which part of a reference."""

from functools import partial
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..attention.snapshot import NO_QUERY, correspondence
from .drawing.attention import Cell, colours_over, polar_colours, sheet
from .recorded_attention import RecordedImage, attention_inputs, recorded_images
from .showing import show
from .sockets import CATEGORY


class MagicFaceCorrespondence(io.ComfyNode):
    """Shows matching locations in the same colour."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceCorrespondence",
            display_name="MagicFace Correspondence",
            category=CATEGORY,
            description="Colours the concepts' regions with a colour wheel, and each location on the references with"
            " the colour of the location in the picture that attends to it most.",
            search_aliases=["feature correspondence", "attention visualization", "matching", "polar colour map"],
            is_output_node=True,
            inputs=attention_inputs(),
            outputs=[
                io.Image.Output(
                    "view",
                    tooltip="One sheet for each picture: its coloured regions, and the references in the colours of"
                    " what attends to them most.",
                )
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], step: int, block: str, image: Tensor | None = None) -> io.NodeOutput:
        return show(cls, partial(_draw, latent, step, block, image), latent, image)


def _draw(latent: dict[str, Any], step: int, block: str, image: Tensor | None) -> tuple[Tensor, tuple[()], tuple[()]]:
    return torch.stack([sheet([_row(one)]) for one in recorded_images(latent, step, block, image)]), (), ()


def _row(recorded: RecordedImage) -> list[Cell]:
    """The picture, and each reference in the picture's colours."""
    subject = torch.nonzero(recorded.regions >= 0).flatten()
    colours = polar_colours(recorded.snapshot.grid, subject if len(subject) else torch.arange(len(recorded.regions)))
    cells = [Cell(colours_over(recorded.picture, colours, recorded.cells(subject)), recorded.location)]
    for index, (concept, pictures) in enumerate(zip(recorded.concept_names, recorded.references, strict=True)):
        region = torch.nonzero(recorded.regions == index).flatten()
        matches = correspondence(recorded.snapshot, recorded.index, index, region) if len(region) else []
        for number, picture in enumerate(pictures):
            match = matches[number] if matches else torch.full((1, 1), NO_QUERY)
            taken = colours.flatten(0, 1)[match.clamp(min=0)]
            cells.append(Cell(colours_over(picture, taken, match != NO_QUERY), concept))
    return cells


NODES = [MagicFaceCorrespondence]
