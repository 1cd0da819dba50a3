"""MagicFaceReference: encodes the pictures of one concept."""

from comfy.sd import CLIP, VAE
from comfy_api.latest import io
from torch import Tensor

from ..sampling.errors import error_prefix
from ..sampling.references.encoding import encode_reference
from .drawing.reference import preview_of
from .sockets import CATEGORY, ReferenceSocket, check_size, size_input


class MagicFaceReference(io.ComfyNode):
    """Encodes the pictures of one concept."""

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
                    tooltip="The words that name the concept in the target prompt, e.g. 'hat'. References with the same"
                    " words are views of one concept.",
                ),
                size_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the concept is (white), a mask for each picture. Values up to 0.08 (20 of 255)"
                    " count as black. Not connected = the picture's alpha, or the whole picture where it has none.",
                ),
                io.Boolean.Input(
                    "crop",
                    default=False,
                    optional=True,
                    tooltip="Encode only the part around the mask, with a margin of half its size: more tokens for"
                    " something small in a large picture. Off = the whole picture.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output(
                    "reference",
                    tooltip="The encoded concept, with a weight of 1.5. Connect it to MagicFace Apply; for another"
                    " weight, put MagicFace Mask Weight in between.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: VAE,
        clip: CLIP,
        caption: str,
        concept: str,
        size: int,
        mask: Tensor | None = None,
        crop: bool = False,
    ) -> io.NodeOutput:
        with error_prefix("MagicFaceReference"):
            check_size(size)
            reference = encode_reference(image, mask, vae, clip, caption, concept, size, crop)
        return io.NodeOutput(reference, ui=preview_of(cls, reference))


NODES = [MagicFaceReference]
