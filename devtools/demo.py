"""`dev.py demo`: one picture of two concepts, through the API of a real ComfyUI."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from .client import Client, Prompt, PromptError
from .install import chosen
from .model import with_model
from .pins import ROOT
from .progress import Progress
from .server import Server, ServerError

WORKFLOW = ROOT / "workflows" / "api" / "magicface_two_concepts.json"
PICTURES = ROOT / "workflows" / "inputs"
# What is saved, by the class of the node that shows it.
SAVED = {"SaveImage": "picture", "MagicFaceSegmentationPreview": "segmentation"}


class DemoError(Exception):
    """The demo could not be run to its end; the message says why."""


def main(output: Path, workflow: Path | None = None) -> int:
    """Run a workflow in API format and save its pictures as PNG.

    Args:
        output: folder for the pictures.
        workflow: another workflow than the shipped one; its pictures may lie beside it.
    """
    workflow = workflow or WORKFLOW
    install = chosen()
    with tempfile.TemporaryDirectory(prefix="magicface-demo-", ignore_cleanup_errors=True) as base:
        server = Server(install, Path(base))
        try:
            prompt = with_model(json.loads(workflow.read_text(encoding="utf-8")))
            print("Starting ComfyUI", flush=True)
            with server:
                saved = make_pictures(server.client, prompt, [PICTURES, workflow.parent], output)
        except (DemoError, PromptError, ServerError, OSError) as error:
            print(f"dev.py demo: {error}", file=sys.stderr)
            if isinstance(error, ConnectionError):
                print(f"The end of the server's log:\n{server.log_tail()}", file=sys.stderr)
            return 1
    print("Saved:")
    for path in saved:
        print(f"  {path.resolve()}")
    return 0


def make_pictures(client: Client, prompt: Prompt, sources: list[Path], output: Path) -> list[Path]:
    """Upload what a prompt reads, run it, save what it shows.

    Args:
        client: the server.
        prompt: nodes by id, in API format.
        sources: folders to look for the pictures in.
        output: folder to save to.

    Returns:
        The files written, the picture first.

    Raises:
        DemoError: a picture or a node is missing.
        PromptError: the prompt was refused or failed.
    """
    known = client.get_json("/object_info")
    missing = sorted({node["class_type"] for node in prompt.values()} - set(known))
    if missing:
        raise DemoError(f"ComfyUI knows no node {', '.join(missing)}: did the pack fail to load?")
    for name in pictures_read(prompt):
        client.upload(_find(name, sources))
    listener = Progress(prompt, {name: info["display_name"] or name for name, info in known.items()})
    outputs = client.run(prompt, listener)["outputs"]
    return _save(client, prompt, outputs, output)


def pictures_read(prompt: Prompt) -> list[str]:
    """Names of the pictures that a prompt loads from the input folder."""
    loaders = (node for node in prompt.values() if node["class_type"] in ("LoadImage", "LoadImageMask"))
    return sorted({node["inputs"]["image"] for node in loaders})


def _find(name: str, sources: list[Path]) -> Path:
    for folder in sources:
        if (folder / name).is_file():
            return folder / name
    raise DemoError(f"the workflow reads {name}, which is in none of: {', '.join(map(str, sources))}")


def _save(client: Client, prompt: Prompt, outputs: dict[str, Any], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for class_type, name in SAVED.items():
        shown = [
            picture
            for node_id, node in prompt.items()
            if node["class_type"] == class_type
            for picture in outputs.get(node_id, {}).get("images", [])
        ]
        for number, picture in enumerate(shown):
            path = folder / (f"{name}.png" if len(shown) == 1 else f"{name}_{number}.png")
            path.write_bytes(client.view(picture))
            saved.append(path)
    if not saved:
        raise DemoError("the workflow ended without showing a picture")
    return saved
