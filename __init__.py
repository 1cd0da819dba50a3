"""MagicFace for ComfyUI: a person from several reference concepts, in any style, without training."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():  # noqa: ANN201 - naming the type would import ComfyUI before it asks for the nodes
    """The extension that ComfyUI loads."""
    from .nodes import MagicFaceExtension

    return MagicFaceExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
