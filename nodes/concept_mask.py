"""MagicFaceConceptMask: finds a concept's mask by the words of the picture's caption."""

from typing import Any

import torch
from comfy.sd import CLIP, VAE
from comfy_api.latest import io, ui
from torch import Tensor

from ..sampling.errors import error_prefix
from ..sampling.references.concept_mask import DEFAULT_EDGE_PX, DEFAULT_THRESHOLD, MaskSettings, concept_masks
from .drawing.mask import over_picture
from .sockets import CATEGORY, check_range, check_size, fraction_input, size_input

MAX_EDGE_PX = 128


class MagicFaceConceptMask(io.ComfyNode):
    """Finds a concept in pictures by the words of their caption, and outputs its masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceConceptMask",
            display_name="MagicFace Mask from Words",
            category=CATEGORY,
            description="Finds a concept (a face, a hat, clothes) in pictures by the words of their caption, and"
            " outputs its masks. The model that samples reads its own attention; nothing else is loaded.",
            search_aliases=["auto mask", "text mask", "segment by text", "clipseg", "concept mask"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample. LoRAs count, other patches do not."),
                io.Clip.Input("clip", tooltip="The CLIP of that model."),
                io.Vae.Input("vae", tooltip="The VAE of that model."),
                io.Image.Input("image", tooltip="The concept's picture. A batch gives a mask for each picture."),
                io.String.Input(
                    "caption",
                    multiline=True,
                    default="",
                    tooltip="What the picture shows, e.g. 'a cartoon boy wearing a hat'. Naming the other things in it"
                    " too may help.",
                ),
                io.String.Input(
                    "concept", default="", tooltip="The words of the caption that name the concept, e.g. 'hat'."
                ),
                size_input(),
                fraction_input(
                    "threshold",
                    DEFAULT_THRESHOLD,
                    "How much is taken: pixels whose attention is above this part of the strongest. Lower = more of the"
                    " picture.",
                ),
                io.Int.Input(
                    "edge_px",
                    default=DEFAULT_EDGE_PX,
                    min=0,
                    max=MAX_EDGE_PX,
                    tooltip="How far the mask is fitted to the picture's edges, in pixels at the size given above. 0 ="
                    " not at all.",
                ),
                io.String.Input(
                    "blocks",
                    default="auto",
                    advanced=True,
                    tooltip="Blocks whose attention is read: auto, or names such as 'input.4-5,output.3' as in"
                    " MagicFace Schedule.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    "mask", tooltip="White where the concept is, one for each picture. For MagicFace Reference."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: CLIP,
        vae: VAE,
        image: Tensor,
        caption: str,
        concept: str,
        size: int,
        threshold: float,
        edge_px: int,
        blocks: str,
    ) -> io.NodeOutput:
        with error_prefix("MagicFaceConceptMask"):
            check_size(size)
            check_range("threshold", threshold, 0.0, 1.0)
            check_range("edge_px", edge_px, 0, MAX_EDGE_PX)
            settings = MaskSettings(threshold, edge_px, blocks)
            masks = concept_masks(model, clip, vae, image, caption, concept, size, settings)
        pairs = zip(image, masks, strict=True)
        shown = torch.stack([over_picture(picture[..., :3].float().cpu().clamp(0, 1), mask) for picture, mask in pairs])
        return io.NodeOutput(masks, ui=ui.PreviewImage(shown, cls=cls))


NODES = [MagicFaceConceptMask]
