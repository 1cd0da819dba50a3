"""A development pack for ComfyUI: a node that loads the small models of `tiny_model`."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint() -> Any:
    """Register the pack's node, its stand-in for checkpoints, and a route that reports what is alive."""
    import folder_paths
    from aiohttp import web
    from comfy_api.latest import ComfyExtension, io
    from server import PromptServer

    from . import alive, families, stand_in, tiny_model

    PromptServer.instance.add_on_prompt_handler(stand_in.replace_missing)

    @PromptServer.instance.routes.get("/magicface_dev/alive")
    async def report(_: Any) -> web.Response:
        return web.json_response(alive.report())

    class TinyModel(io.ComfyNode):
        """Loads a small model of one family."""

        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id="MagicFaceTinyModel",
                display_name="MagicFace tiny model (development)",
                category="_for_testing/magicface",
                description="A small model for tests and demonstrations: portraits was trained on drawn portraits of"
                " 256 pixels; the others have random weights, and their pictures mean nothing.",
                inputs=[
                    io.Combo.Input("family", options=list(families.FAMILIES), default="portraits"),
                    io.Int.Input(
                        "seed", default=0, min=0, max=2**32 - 1, control_after_generate=io.ControlAfterGenerate.fixed
                    ),
                ],
                outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
            )

        @classmethod
        def execute(cls, family: str, seed: int) -> io.NodeOutput:
            embeddings = folder_paths.get_folder_paths("embeddings")
            return io.NodeOutput(*tiny_model.load(family, seed, embedding_directory=embeddings))

    class TinyPack(ComfyExtension):
        """The pack."""

        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return [TinyModel]

    return TinyPack()
