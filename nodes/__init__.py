"""The nodes as a user sees them: schemas, tooltips, checks of inputs."""

from comfy_api.latest import ComfyExtension, io

from . import (
    apply,
    attention_record,
    attention_view,
    concept_mask,
    correspondence,
    mask_weight,
    prompt,
    reference,
    region,
    schedule,
    segmentation_preview,
)
from .example_pictures import offer_example_pictures
from .tested_version import note_untested_version


class MagicFaceExtension(ComfyExtension):
    """The pack's nodes."""

    async def on_load(self) -> None:
        """Copy the workflows' pictures into the input folder, and log if ComfyUI is newer than any tested."""
        offer_example_pictures()
        note_untested_version()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes, in the order in which a graph uses them."""
        modules = (concept_mask, reference, mask_weight, region, prompt, schedule, attention_record, apply)
        views = (segmentation_preview, attention_view, correspondence)
        return [node for module in (*modules, *views) for node in module.NODES]
