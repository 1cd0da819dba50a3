"""MagicFaceMaskWeight: how strongly, and where, a reference counts."""

from dataclasses import replace
from typing import get_args

from comfy_api.latest import io
from torch import Tensor

from ..attention.masks import MaskResize, feather, grow
from ..sampling.errors import error_prefix
from ..sampling.method import DEFAULT_RESIZE, DEFAULT_WEIGHT, Reference
from .sockets import CATEGORY, ReferenceSocket, check_choice, check_range

MAX_WEIGHT = 10.0
MAX_PX = 512
SAME = -1.0


class MagicFaceMaskWeight(io.ComfyNode):
    """Weighted-mask settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceMaskWeight",
            display_name="MagicFace Mask Weight",
            category=CATEGORY,
            description="Sets how strongly the picture looks at a reference, and trims its mask. Nothing is encoded"
            " again when this changes.",
            search_aliases=["weighted mask", "reference strength", "weighted-mask settings"],
            inputs=[
                ReferenceSocket.Input("reference", tooltip="From MagicFace Reference."),
                io.Float.Input(
                    "weight",
                    default=DEFAULT_WEIGHT,
                    min=0.0,
                    max=MAX_WEIGHT,
                    step=0.05,
                    tooltip="Strength. Each pixel of the reference counts e^weight times (3: twenty times). The"
                    " authors use 1.2 to 4. Measured: likeness 0.74, 0.77, 0.77, 0.75, 0.73 at 0.5, 1.5, 2, 3, 4, and"
                    " from 2 up more and more that nobody asked for. 0 = off: the reference takes no part.",
                ),
                io.Float.Input(
                    "injection_weight",
                    default=SAME,
                    min=SAME,
                    max=MAX_WEIGHT,
                    step=0.05,
                    advanced=True,
                    tooltip="Another strength for stage 2, in which each region looks at its own reference."
                    " -1 = the same as weight; 0 = off in stage 2.",
                ),
                io.Combo.Input(
                    "resize",
                    options=list(get_args(MaskResize)),
                    default=DEFAULT_RESIZE,
                    advanced=True,
                    tooltip="How the mask comes to the model's coarse grids: area, with which thin things (glasses, a"
                    " tie) do not vanish (measured: their likeness is 0.85 instead of 0.83), or nearest, as the authors"
                    " do.",
                ),
                io.Int.Input(
                    "grow_px",
                    default=0,
                    min=-MAX_PX,
                    max=MAX_PX,
                    advanced=True,
                    tooltip="Pixels of the reference picture by which the mask grows, or shrinks if negative.",
                ),
                io.Int.Input(
                    "feather_px",
                    default=0,
                    min=0,
                    max=MAX_PX,
                    advanced=True,
                    tooltip="Pixels of the reference picture over which the mask's edge fades.",
                ),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    advanced=True,
                    tooltip="Use what lies outside the mask, before growing and feathering.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output("reference", tooltip="The reference with these settings."),
                io.Mask.Output("mask", tooltip="The mask that results, one for each view."),
            ],
        )

    @classmethod
    def execute(
        cls,
        reference: Reference,
        weight: float,
        injection_weight: float,
        resize: MaskResize,
        grow_px: int,
        feather_px: int,
        invert: bool,
    ) -> io.NodeOutput:
        with error_prefix("MagicFaceMaskWeight"):
            check_range("weight", weight, 0.0, MAX_WEIGHT)
            if injection_weight != SAME:
                check_range("injection_weight", injection_weight, 0.0, MAX_WEIGHT)
            check_range("grow_px", grow_px, -MAX_PX, MAX_PX)
            check_range("feather_px", feather_px, 0, MAX_PX)
            check_choice("resize", resize, get_args(MaskResize))
            masks = 1.0 - reference.masks if invert else reference.masks
            _check_not_empty(
                masks, "invert: leaves nothing of the mask of picture {}, which covers all of it; do not invert"
            )
            masks = grow(masks, grow_px)
            _check_not_empty(masks, f"grow_px: {grow_px} leaves nothing of the mask of picture {{}}; shrink it less")
            masks = feather(masks, feather_px)
        blend_weight = weight if injection_weight == SAME else injection_weight
        weighted = replace(reference, masks=masks, weight=weight, blend_weight=blend_weight, resize=resize)
        return io.NodeOutput(weighted, masks)


def _check_not_empty(masks: Tensor, message: str) -> None:
    for view, mask in enumerate(masks):
        if not (mask > 0).any():
            raise ValueError(message.format(view + 1))


NODES = [MagicFaceMaskWeight]
