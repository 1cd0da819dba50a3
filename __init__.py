"""MagicFace for ComfyUI: a person from several reference concepts, in any style, without training."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The extension that ComfyUI loads."""
    from .nodes import MagicFaceExtension

    return MagicFaceExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
