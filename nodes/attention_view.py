"""MagicFaceAttentionView: shows which parts of the references a pixel or a region attends to."""

from functools import partial
from typing import Any, Literal, get_args

import torch
from comfy_api.latest import io
from torch import Tensor

from ..attention.snapshot import heat
from .drawing.attention import Cell, dim_outside, heat_over, sheet
from .recorded_attention import RecordedImage, attention_inputs, recorded_images
from .showing import show
from .sockets import CATEGORY, check_choice

_MAX_PX = 16384
Query = Literal["regions", "pixel"]


class MagicFaceAttentionView(io.ComfyNode):
    """Shows attention to the references as heat maps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceAttentionView",
            display_name="MagicFace Attention View",
            category=CATEGORY,
            description="Shows which parts of the reference pictures each concept's region, or one pixel, attends to:"
            " the brighter, the more.",
            search_aliases=["attention map", "heat map", "attention visualization", "attention heat"],
            is_output_node=True,
            inputs=attention_inputs(
                io.Combo.Input(
                    "query",
                    options=list(get_args(Query)),
                    default="regions",
                    tooltip="regions = a row for each concept, averaged over its region. pixel = the pixel at x, y.",
                ),
                io.Int.Input("x", default=0, min=0, max=_MAX_PX, tooltip="Pixels from the picture's left edge."),
                io.Int.Input("y", default=0, min=0, max=_MAX_PX, tooltip="Pixels from the picture's top edge."),
            ),
            outputs=[
                io.Image.Output(
                    "view",
                    tooltip="One sheet for each picture: the region or pixel, and a heat map of its attention on each"
                    " reference with the share that the reference gets.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, latent: dict[str, Any], step: int, block: str, query: Query, x: int, y: int, image: Tensor | None = None
    ) -> io.NodeOutput:
        return show(cls, partial(_draw, latent, step, block, query, x, y, image), latent, image)


def _draw(
    latent: dict[str, Any], step: int, block: str, query: Query, x: int, y: int, image: Tensor | None
) -> tuple[Tensor, tuple[()], tuple[()]]:
    check_choice("query", query, get_args(Query))
    recorded_ones = recorded_images(latent, step, block, image)
    sheets = [sheet([_row(one, *of) for of in _queries(one, query, x, y)]) for one in recorded_ones]
    return torch.stack(sheets), (), ()


def _queries(recorded: RecordedImage, query: Query, x: int, y: int) -> list[tuple[str, Tensor]]:
    """The queries to show: a label and the tokens of each."""
    if query == "regions":
        names = enumerate(recorded.concept_names)
        return [(name, torch.nonzero(recorded.regions == index).flatten()) for index, name in names]
    height, width = recorded.picture.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"x, y: {x}, {y} is outside the picture, which is {width}x{height} pixels")
    rows, columns = recorded.snapshot.grid
    token = (y * rows // height) * columns + x * columns // width
    return [(f"pixel {x}, {y}", torch.tensor([token]))]


def _row(recorded: RecordedImage, name: str, queries: Tensor) -> list[Cell]:
    """One row of the sheet: the queries on the picture, then their attention to each reference."""
    if len(queries):
        maps = heat(recorded.snapshot, recorded.index, queries)
    else:
        name += ": no region"
        maps = [[torch.zeros(1, 1) for _ in pictures] for pictures in recorded.references]
    highest = max((float(of_view.max()) for of_concept in maps for of_view in of_concept), default=0.0)
    cells = [Cell(dim_outside(recorded.picture, recorded.cells(queries)), f"{name} ({recorded.location})")]
    for concept, pictures, of_concept in zip(recorded.concept_names, recorded.references, maps, strict=True):
        for number, picture in enumerate(pictures):
            of_view = of_concept[number] if of_concept else torch.zeros(1, 1)
            cells.append(Cell(heat_over(picture, of_view, highest), f"{concept} {float(of_view.sum()):.0%}"))
    return cells


NODES = [MagicFaceAttentionView]
