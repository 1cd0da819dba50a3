"""What a person sees in the graph: schemas, tooltips, wiring."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import apply, mask_weight, prompt, reference, schedule, segmentation_preview


class MagicFaceExtension(ComfyExtension):
    """The pack's nodes, in the order in which a graph uses them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes."""
        modules = (reference, mask_weight, prompt, schedule, apply, segmentation_preview)
        return [node for module in modules for node in module.NODES]
