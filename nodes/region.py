"""MagicFaceRegion: says where in the picture a concept goes."""

from dataclasses import replace
from typing import Literal, get_args

from comfy_api.latest import io
from torch import Tensor

from ..attention.trimming import feather, grow
from ..sampling.errors import error_prefix
from ..sampling.method import Reference
from ..sampling.references.given_masks import plain_masks
from ..sampling.regions.target import TargetRegion
from .sockets import CATEGORY, ReferenceSocket, check_choice, check_range

MAX_PX = 512
How = Literal["exactly here", "only within"]


class MagicFaceRegion(io.ComfyNode):
    """Says where in the picture a concept goes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceRegion",
            display_name="MagicFace Region",
            category=CATEGORY,
            description="Says where in the picture a concept goes, by a mask of that picture's shape: for two people,"
            " or to correct a region.",
            search_aliases=["place", "position", "regional", "layout", "two people", "correct a region"],
            inputs=[
                ReferenceSocket.Input("reference", tooltip="From MagicFace Concept, Reference or Mask Weight."),
                io.Mask.Input(
                    "mask",
                    tooltip="White where the concept goes. It has the shape of the picture that is sampled, not of the"
                    " reference, in any resolution: one mask for all pictures of a batch, or one for each. An edited"
                    " mask of MagicFace Segmentation Preview will do.",
                ),
                io.Combo.Input(
                    "how",
                    options=list(get_args(How)),
                    tooltip="exactly here: the mask is the concept's region in the whole run; nothing is searched for,"
                    " and the prompt need not name it. only within: the concept is found by its words, but nowhere"
                    " outside the mask.",
                ),
                io.Int.Input(
                    "feather_px",
                    default=0,
                    min=0,
                    max=MAX_PX,
                    tooltip="Lets the concept's effect fade out inside the mask's edge, over this many of the mask's"
                    " pixels.",
                ),
            ],
            outputs=[ReferenceSocket.Output("reference", tooltip="The reference with its place.")],
        )

    @classmethod
    def execute(cls, reference: Reference, mask: Tensor, how: How, feather_px: int) -> io.NodeOutput:
        with error_prefix("MagicFaceRegion"):
            check_choice("how", how, get_args(How))
            check_range("feather_px", feather_px, 0, MAX_PX)
            masks = plain_masks(mask, "mark where the concept goes")
            shares = None
            if feather_px:
                # The blur reaches twice its radius.
                shares = feather(grow(masks, -feather_px), -(-feather_px // 2))
                if not (shares > 0).flatten(1).any(dim=1).all():
                    raise ValueError(
                        f"feather_px: {feather_px} leaves nothing of the mask, which is narrower than twice as much;"
                        " use less"
                    )
        return io.NodeOutput(replace(reference, region=TargetRegion(masks, how == "exactly here", shares)))


NODES = [MagicFaceRegion]
