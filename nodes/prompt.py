"""MagicFacePrompt: the target prompt, with its words' places remembered."""

from typing import Any

from comfy_api.latest import io

from ..sampling.conditioning.prompt import read_tokens, tagged
from ..sampling.errors import error_prefix
from .sockets import CATEGORY


class MagicFacePrompt(io.ComfyNode):
    """The positive prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFacePrompt",
            display_name="MagicFace Prompt",
            category=CATEGORY,
            description="Encodes the positive prompt as CLIP Text Encode does, and remembers where its words stand,"
            " so that the concepts can be found in it.",
            search_aliases=["text encode", "positive prompt", "clip text encode", "target prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the model that will sample."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="The target prompt. It must contain the words of every concept. Weights such as"
                    " (hat:1.2), embeddings and any length are fine.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="A conditioning that another node (CLIPTextEncodeSDXL, say) encoded from the same text, to"
                    " be used instead of encoding it here.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    tooltip="For the sampler's positive input; Combine, Set Area, ControlNet and the like may follow."
                )
            ],
        )

    @classmethod
    def execute(cls, clip: io.Clip.Type, text: str, conditioning: list[list[Any]] | None = None) -> io.NodeOutput:
        with error_prefix("MagicFacePrompt"):
            if clip is None:
                raise ValueError("clip: is empty; the checkpoint holds no text encoder, load one with Load CLIP")
            with error_prefix("clip"):
                tag = read_tokens(clip, text)
            if conditioning is None:
                conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
            for entry in conditioning:
                given = entry[0].shape[1]
                if given != len(tag.tokens):
                    raise ValueError(
                        f"conditioning: has {given} tokens and the text {len(tag.tokens)}; give the text that the"
                        " conditioning was encoded from (for CLIPTextEncodeSDXL its longer one)"
                    )
        return io.NodeOutput(tagged(conditioning, tag))


NODES = [MagicFacePrompt]
