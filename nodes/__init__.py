"""What a person sees in the graph: schemas, tooltips, wiring."""

from comfy_api.latest import ComfyExtension, io

from . import (
    apply,
    attention_record,
    attention_view,
    correspondence,
    mask_weight,
    prompt,
    reference,
    schedule,
    segmentation_preview,
)
from .example_pictures import offer_example_pictures
from .tested_version import note_untested_version


class MagicFaceExtension(ComfyExtension):
    """The pack's nodes, in the order in which a graph uses them."""

    async def on_load(self) -> None:
        """Put the workflows' pictures where they are found, and note a ComfyUI newer than any tested."""
        offer_example_pictures()
        note_untested_version()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes."""
        encoding = (reference, mask_weight, prompt)
        patching = (schedule, attention_record, apply)
        showing = (segmentation_preview, attention_view, correspondence)
        return [node for module in (*encoding, *patching, *showing) for node in module.NODES]
