"""MagicFacePrompt: encodes the target prompt and remembers which tokens are which words."""

from typing import Any

from comfy.sd import CLIP
from comfy_api.latest import io

from ..sampling.conditioning.fitting import FittedText
from ..sampling.conditioning.parts import ENCODED_PARTS
from ..sampling.conditioning.prompt import tagged
from ..sampling.errors import error_prefix
from .sockets import CATEGORY


class MagicFacePrompt(io.ComfyNode):
    """Encodes the positive prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFacePrompt",
            display_name="MagicFace Prompt",
            category=CATEGORY,
            description="Encodes the positive prompt as CLIP Text Encode does, and remembers which tokens are which"
            " words, so that the concepts can be found in the picture.",
            search_aliases=["text encode", "positive prompt", "clip text encode", "target prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the model that will sample."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="The target prompt. It must contain the words of every concept. Weights such as (hat:1.2),"
                    " embeddings and prompts of any length work.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="A conditioning that another node (such as CLIPTextEncodeSDXL) encoded from the same text,"
                    " with BREAK where it was cut into parts. It is used instead of encoding the text here.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    tooltip="For the sampler's positive input. Combine, Set Area, ControlNet and similar nodes may come"
                    " in between.",
                )
            ],
        )

    @classmethod
    def execute(cls, clip: CLIP, text: str, conditioning: list[list[Any]] | None = None) -> io.NodeOutput:
        with error_prefix("MagicFacePrompt"):
            if clip is None:
                raise ValueError("clip: is empty; the checkpoint holds no text encoder, load one with Load CLIP")
            with error_prefix("clip"):
                fitted = FittedText(clip, text)
            if conditioning is None:
                conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
                for entry in conditioning:
                    if entry[0].shape[1] != len(fitted.plain.tokens):
                        raise ValueError(fitted.changed(entry[0]))
                tags = [fitted.plain] * len(conditioning)
            else:
                with error_prefix("conditioning"):
                    tags = [fitted.tokens_in(entry[0]) for entry in conditioning]
        for entry, tag in zip(conditioning, tags, strict=True):
            ENCODED_PARTS.add(entry[0], tag)
        return io.NodeOutput(tagged(conditioning, tags))


NODES = [MagicFacePrompt]
