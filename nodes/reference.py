"""MagicFaceReference: encode the pictures of one concept."""

import torch
from comfy_api.latest import io

from ..sampling.errors import error_prefix
from ..sampling.references.encoding import encode_reference
from .sockets import CATEGORY, ReferenceSocket, check_range

MAX_PX = 4096


class MagicFaceReference(io.ComfyNode):
    """Reference encoding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceReference",
            display_name="MagicFace Reference",
            category=CATEGORY,
            description="Encodes the pictures of one concept (a face, a hat, clothes) with their masks and caption.",
            search_aliases=["reference encoding", "reference concept", "subject", "face", "clothes", "ip adapter"],
            inputs=[
                io.Image.Input("image", tooltip="The concept's picture. A batch is several views of the same concept."),
                io.Vae.Input("vae", tooltip="The VAE of the model that will sample."),
                io.Clip.Input("clip", tooltip="The CLIP of the model that will sample."),
                io.String.Input(
                    "caption",
                    multiline=True,
                    default="",
                    tooltip="What the picture shows, e.g. 'a cartoon boy wearing a hat'.",
                ),
                io.String.Input(
                    "concept",
                    default="",
                    tooltip="The words that name the concept in the target prompt, e.g. 'hat'. References with the"
                    " same words are views of one concept.",
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=MAX_PX,
                    step=64,
                    tooltip="Pixels. The picture is encoded with the area of a square of this side, its aspect kept"
                    " (sides are rounded to multiples of 64; nothing is cropped). 0 = 1024 for SDXL, 512 else.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the concept is, one mask for each picture. Not connected = the whole picture.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output(
                    "reference",
                    tooltip="The encoded concept, with a weight of 1.5. Goes to MagicFace Apply, directly or through"
                    " MagicFace Mask Weight.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        vae: io.Vae.Type,
        clip: io.Clip.Type,
        caption: str,
        concept: str,
        size: int,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        with error_prefix("MagicFaceReference"):
            if size:
                check_range("size", size, 64, MAX_PX)
            return io.NodeOutput(encode_reference(image, mask, vae, clip, caption, concept, size))


NODES = [MagicFaceReference]
