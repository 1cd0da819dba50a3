"""`dev.py demo`: pictures without the method and with it, in two styles, through the API of a real ComfyUI."""

from __future__ import annotations

import copy
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .client import Client, Prompt, PromptError
from .contact_sheet import Entry, contact_sheet, dim, in_rows
from .install import chosen
from .model import with_model
from .pins import ROOT
from .progress import Progress
from .server import Server, ServerError

WORKFLOW = ROOT / "workflows" / "api" / "magicface_with_and_without.json"
PICTURES = ROOT / "workflows" / "inputs"
_ROW_PX = 1400
# The nodes whose pictures are saved, and the file name for each class.
SAVED = {
    "MagicFaceConceptMask": "mask",
    "SaveImage": "picture",
    "MagicFaceSegmentationPreview": "segmentation",
    "MagicFaceAttentionView": "attention",
    "MagicFaceCorrespondence": "correspondence",
}


# The shipped prompt is put into each of these phrases; each gives a row of pictures.
STYLES = {"ink": "an ink drawing of {}", "watercolour": "a watercolour of {}"}


class DemoError(Exception):
    """The demo failed; the message says why."""


def main(output: Path, workflow: Path | None = None) -> int:
    """Run the shipped workflow in each of `STYLES`, or another one, and save the pictures as PNG.

    Args:
        output: folder for the pictures.
        workflow: another workflow in API format; its pictures may be in the same folder.
    """
    install = chosen()
    with tempfile.TemporaryDirectory(prefix="magicface-demo-", ignore_cleanup_errors=True) as base:
        server = Server(install, Path(base))
        try:
            prompt = with_model(json.loads((workflow or WORKFLOW).read_text(encoding="utf-8")))
            prompts = {"": prompt} if workflow else {style: in_style(prompt, style) for style in STYLES}
            sources = [PICTURES, (workflow or WORKFLOW).parent]
            print("Starting ComfyUI", flush=True)
            with server:
                saved = make_pictures(server.client, prompts, sources, output)
        except (DemoError, PromptError, ServerError, OSError) as error:
            print(f"dev.py demo: {error}", file=sys.stderr)
            if isinstance(error, ConnectionError):
                print(f"The end of the server's log:\n{server.log_tail()}", file=sys.stderr)
            return 1
    print("Saved:")
    for path in saved:
        print(f"  {path.resolve()}")
    return 0


def in_style(prompt: Prompt, style: str) -> Prompt:
    """A copy of a prompt that asks for a picture in one of `STYLES`."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        if node["class_type"] == "MagicFacePrompt":
            node["inputs"]["text"] = STYLES[style].format(node["inputs"]["text"])
    return prompt


def make_pictures(client: Client, prompts: Mapping[str, Prompt], sources: list[Path], output: Path) -> list[Path]:
    """Upload the pictures that prompts read, run them, and save the pictures that they show.

    Args:
        client: the server.
        prompts: by name, nodes by id, in API format. They have the same references.
        sources: folders in which the pictures are searched.
        output: folder to save to. The pictures of a prompt with a name get a folder of that name in it.

    Returns:
        The files written, the contact sheet last.

    Raises:
        DemoError: a picture or a node is missing.
        PromptError: the prompt was refused or failed.
    """
    known = client.get_json("/object_info")
    nodes = [node for prompt in prompts.values() for node in prompt.values()]
    missing = sorted({node["class_type"] for node in nodes} - set(known))
    if missing:
        raise DemoError(f"ComfyUI does not know the node {', '.join(missing)}: did the pack fail to load?")
    files = {name: _find(name, sources) for prompt in prompts.values() for name in pictures_read(prompt)}
    for file in files.values():
        client.upload(file)
    all_saved, rows = [], [references(next(iter(prompts.values())), files)]
    for name, prompt in prompts.items():
        listener = Progress(prompt, {kind: info["display_name"] or kind for kind, info in known.items()})
        outputs = client.run(prompt, listener)["outputs"]
        saved = _save(client, prompt, outputs, output / name)
        made = [Entry(Image.open(path), f"{name} {path.stem.replace('_', ' ')}".strip()) for path in saved]
        all_saved += saved
        rows += in_rows(made, _ROW_PX)
    sheet = output / "sheet.png"
    contact_sheet(rows).save(sheet)
    return [*all_saved, sheet]


def references(prompt: Prompt, files: dict[str, Path]) -> list[Entry]:
    """The pictures of a prompt's references that are loaded from files, faded outside their masks.

    Args:
        prompt: nodes by id, in API format.
        files: the paths of the pictures that it loads, by name.
    """

    def load(node: dict[str, Any], name: str, loader: str) -> Image.Image | None:
        link = node["inputs"].get(name)
        source = prompt[link[0]] if link else None
        if source is None or source["class_type"] != loader:
            return None
        return Image.open(files[source["inputs"]["image"]])

    entries = []
    for node in prompt.values():
        if node["class_type"] == "MagicFaceReference":
            picture = load(node, "image", "LoadImage")
            if picture is not None:
                entries.append(
                    Entry(
                        dim(picture, load(node, "mask", "LoadImageMask")),
                        f"reference: {node['inputs']['concept']}",
                    )
                )
    return entries


def pictures_read(prompt: Prompt) -> list[str]:
    """The names of the pictures that a prompt loads from the input folder."""
    loaders = (node for node in prompt.values() if node["class_type"] in ("LoadImage", "LoadImageMask"))
    return sorted({node["inputs"]["image"] for node in loaders})


def _find(name: str, sources: list[Path]) -> Path:
    for folder in sources:
        if (folder / name).is_file():
            return folder / name
    raise DemoError(f"the workflow reads {name}, which is in none of these folders: {', '.join(map(str, sources))}")


def _save(client: Client, prompt: Prompt, outputs: dict[str, Any], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for class_type, name in SAVED.items():
        shown = [
            (re.sub(r"[^\w-]+", "_", node["inputs"].get("filename_prefix", name)), picture)
            for node_id, node in prompt.items()
            if node["class_type"] == class_type
            for picture in outputs.get(node_id, {}).get("images", [])
        ]
        # A single picture gets the name in SAVED, several get the names in the workflow.
        stems = [stem for stem, _ in shown]
        for number, (stem, picture) in enumerate(shown):
            numbered = f"{stem}_{number}" if stems.count(stem) > 1 else stem
            path = folder / f"{name if len(shown) == 1 else numbered}.png"
            path.write_bytes(client.view(picture))
            saved.append(path)
    if not saved:
        raise DemoError("the workflow ended without a picture")
    return saved
