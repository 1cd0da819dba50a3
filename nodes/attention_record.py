"""MagicFaceAttentionRecord: chooses the steps and blocks whose attention is recorded."""

import re

from comfy_api.latest import io

from ..sampling.errors import error_prefix
from ..sampling.method import RecordSettings
from .sockets import CATEGORY, RecordSocket, check_range

MAX_MB = 8192


class MagicFaceAttentionRecord(io.ComfyNode):
    """Chooses what the attention views can show."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceAttentionRecord",
            display_name="MagicFace Attention Record",
            category=CATEGORY,
            description="Records the attention of chosen steps and blocks while sampling, for MagicFace Attention View"
            " and MagicFace Correspondence. Nothing is recorded without it.",
            search_aliases=["attention map", "attention visualization", "record attention", "debug attention"],
            inputs=[
                io.String.Input(
                    "steps",
                    default="-1",
                    tooltip="Steps of the sampler, from 0, separated by commas. Negative numbers count from the end: -1"
                    " = the last.",
                ),
                io.String.Input(
                    "blocks",
                    default="auto",
                    tooltip="Injection blocks to record, such as output.3.0 or output.2-3, separated by commas. auto ="
                    " the first one at the finest resolution.",
                ),
                io.Int.Input(
                    "most_mb",
                    default=256,
                    min=1,
                    max=MAX_MB,
                    advanced=True,
                    tooltip="How much main memory (MB) the recorded attention of a run may use. What does not fit is"
                    " left out, and the log says so.",
                ),
            ],
            outputs=[RecordSocket.Output("record", tooltip="For MagicFace Apply.")],
        )

    @classmethod
    def execute(cls, steps: str, blocks: str, most_mb: int) -> io.NodeOutput:
        with error_prefix("MagicFaceAttentionRecord"):
            check_range("most_mb", most_mb, 1, MAX_MB)
            parts = [part.strip() for part in steps.split(",")]
            if not all(re.fullmatch(r"-?\d+", part) for part in parts):
                raise ValueError(f"steps: is {steps!r}; give whole numbers separated by commas, such as 0, 10, -1")
            if not blocks.strip():
                raise ValueError("blocks: is empty; give block names such as output.3.0, or auto")
        return io.NodeOutput(RecordSettings(tuple(int(part) for part in parts), blocks, most_mb))


NODES = [MagicFaceAttentionRecord]
