"""MagicFace for ComfyUI: a person from several reference concepts, in any style, without training."""

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The extension that ComfyUI loads; only then is ComfyUI imported."""
    from .nodes import MagicFaceExtension

    return MagicFaceExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
