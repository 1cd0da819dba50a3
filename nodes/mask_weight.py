"""MagicFaceMaskWeight: sets how strongly, and where, a reference counts."""

from dataclasses import replace
from typing import Any, get_args

import comfy.model_management
import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ..attention.masks import MaskResize
from ..attention.trimming import FEATHER_PASSES, GROW_PASSES, Progress, feather, grow
from ..sampling.errors import error_prefix
from ..sampling.method import DEFAULT_RESIZE, DEFAULT_WEIGHT, Reference
from ..sampling.references.given_masks import log_notes, slight_masks, without_floor
from .drawing.reference import preview_of
from .sockets import CATEGORY, ReferenceSocket, check_choice, check_range

MAX_WEIGHT = 10.0
MAX_PX = 512
SAME_AS_WEIGHT = -1.0


class MagicFaceMaskWeight(io.ComfyNode):
    """Sets the weights and the mask of a reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceMaskWeight",
            display_name="MagicFace Mask Weight",
            category=CATEGORY,
            description="Sets how strongly a reference counts, and adjusts its mask. Nothing is encoded again when a"
            " setting changes.",
            search_aliases=["weighted mask", "reference strength", "weighted-mask settings"],
            inputs=[
                ReferenceSocket.Input("reference", tooltip="From MagicFace Reference or Region."),
                io.Float.Input(
                    "weight",
                    default=DEFAULT_WEIGHT,
                    min=0.0,
                    max=MAX_WEIGHT,
                    step=0.05,
                    tooltip="Each token of the reference counts e^weight times (3: about 20 times). 0 = off. 1 to 2 is"
                    " usually best; above, likeness falls and unwanted things appear. The authors use 1.2 to 4.",
                ),
                io.Float.Input(
                    "injection_weight",
                    display_name="stage 2 weight",
                    default=SAME_AS_WEIGHT,
                    min=SAME_AS_WEIGHT,
                    max=MAX_WEIGHT,
                    step=0.05,
                    advanced=True,
                    tooltip="Weight in stage 2, in which each region attends only to its own reference. -1 = same as"
                    " weight; 0 = off in stage 2.",
                ),
                io.Combo.Input(
                    "resize",
                    options=list(get_args(MaskResize)),
                    default=DEFAULT_RESIZE,
                    advanced=True,
                    tooltip="How the mask is resized to the model's coarse token grids. area averages, so that thin"
                    " things (glasses, a tie) do not vanish; nearest is what the paper's authors do.",
                ),
                _px_input(
                    "grow_px",
                    -MAX_PX,
                    "Grows the mask by this many pixels of the reference picture; negative values shrink it.",
                ),
                _px_input("feather_px", 0, "Softens the mask's edge over this many pixels of the reference picture."),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    advanced=True,
                    tooltip="Use what is outside the mask, e.g. for the mask that Load Image gives for a cut-out, which"
                    " marks the background. Done before grow_px.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output("reference", tooltip="The reference with these settings."),
                io.Mask.Output("mask", tooltip="The resulting mask, one for each view."),
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
            if injection_weight != SAME_AS_WEIGHT:
                check_range("injection_weight", injection_weight, 0.0, MAX_WEIGHT)
            check_range("grow_px", grow_px, -MAX_PX, MAX_PX)
            check_range("feather_px", feather_px, 0, MAX_PX)
            check_choice("resize", resize, get_args(MaskResize))
            masks = without_floor(1.0 - reference.masks) if invert else reference.masks
            _check_not_empty(
                masks, "invert: leaves nothing of the mask of picture {}, which covers all of it; do not invert"
            )
            progress = _progress(masks, grow_px, feather_px)
            masks = grow(masks, grow_px, progress)
            _check_not_empty(masks, f"grow_px: {grow_px} leaves nothing of the mask of picture {{}}; shrink it less")
            masks = feather(masks, feather_px, progress)
        if masks is not reference.masks:
            log_notes(slight_masks(masks, (reference.latents.shape[-2], reference.latents.shape[-1])))
        blend_weight = weight if injection_weight == SAME_AS_WEIGHT else injection_weight
        weighted = replace(
            reference,
            masks=masks,
            weight=weight,
            blend_weight=blend_weight,
            resize=resize,
            mask_notes=() if invert else reference.mask_notes,
        )
        return io.NodeOutput(weighted, masks, ui=preview_of(cls, weighted))


def _progress(masks: Tensor, grow_px: int, feather_px: int) -> Progress:
    """Shows how far a large picture's mask is, and lets the user interrupt."""
    passes = (GROW_PASSES if grow_px else 0) + (FEATHER_PASSES if feather_px else 0)
    bar = comfy.utils.ProgressBar(max(1, passes * masks.numel()))

    def progress(pixels: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(pixels)

    return progress


def _px_input(name: str, lowest: int, tooltip: str) -> Any:
    return io.Int.Input(name, default=0, min=lowest, max=MAX_PX, advanced=True, tooltip=tooltip)


def _check_not_empty(masks: Tensor, message: str) -> None:
    for view, mask in enumerate(masks):
        if not (mask > 0).any():
            raise ValueError(message.format(view + 1))


NODES = [MagicFaceMaskWeight]
