"""Read a workflow in API format and picture files, and say what is wrong with them.

Each node of a workflow has a `class_type` and `inputs`; an input is a value, or a link: the number of another node, and
which of its outputs.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]

# What files begin with that ComfyUI opens as pictures; those of other endings are left to ComfyUI.
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"II+\0", b"MM\0*", b"MM\0+")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class InputError(Exception):
    """Something that the person who calls has to mend."""


@dataclass(frozen=True)
class Picture:
    """A picture file; `name` is made of its content, so that equal names mean equal pictures."""

    file: Path
    name: str
    opaque: bool


def note(text: str) -> None:
    """Tell what was decided, beside the pictures' names on the standard output."""
    print(f"Note: {text}", file=sys.stderr)


def near(name: str, names: Iterable[str]) -> str:
    """A question about the name that was probably meant; empty where none is near."""
    by_lower = {other.lower(): other for other in names}
    found = difflib.get_close_matches(name.lower(), by_lower, 1)
    return f"; is {by_lower[found[0]]!r} meant?" if found else ""


def content(file: Path) -> bytes:
    """The bytes of a file."""
    if file.is_dir():
        raise InputError(f"{file} is a folder, not a file")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    if not data.strip():
        raise InputError(f"{file} is empty")
    return data


def picture(file: Path) -> Picture:
    """A picture file that was checked; it is read once, and again when it has changed."""
    try:
        state = file.stat()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    return _picture(file, state.st_mtime_ns, state.st_size)


@cache
def _picture(file: Path, changed_ns: int, size: int) -> Picture:
    data, ending = content(file), file.suffix.lower()
    if ending in ENDINGS and not data.startswith(PICTURES) and data[4:8] != b"ftyp":
        raise InputError(f"{file} is not a picture")
    return Picture(file, f"magicface_{hashlib.sha256(data).hexdigest()[:24]}{ending}", opaque(data))


def opaque(data: bytes) -> bool:
    """Whether a picture certainly has no transparency: JPEG, and PNG without alpha."""
    if data.startswith(b"\x89PNG"):
        colour_type, before_pixels = data[25:26], data.partition(b"IDAT")[0]
        return colour_type in (b"\0", b"\2", b"\3") and b"tRNS" not in before_pixels
    return data.startswith(b"\xff\xd8")


def read(workflow: Path) -> Prompt:
    """A workflow in API format."""
    data = content(workflow)
    try:
        prompt = json.loads(data)  # finds out the encoding, with or without a byte order mark
    except json.JSONDecodeError as error:
        raise InputError(f"{workflow}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{workflow} is not a JSON file ({error})") from None
    if isinstance(prompt, dict) and isinstance(prompt.get("prompt"), dict) and "class_type" not in prompt["prompt"]:
        prompt = prompt["prompt"]  # the whole body of a request
    if not isinstance(prompt, dict):
        raise InputError(f"{workflow} is not in API format: a {type(prompt).__name__} instead of nodes by their number")
    if isinstance(prompt.get("nodes"), list):
        raise InputError(
            f"{workflow} is not in API format, but as the editor saves it. Open it in ComfyUI and choose"
            " Export (API) in the Workflow menu; the pack's own workflows are in workflows/api"
        )
    for node_id, node in prompt.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise InputError(f"{workflow} is not in API format: {node_id!r} is no node with a class_type")
        if not isinstance(node.setdefault("inputs", {}), dict):
            raise InputError(f"{workflow} is not in API format: the inputs of node {node_id!r} have no names")
    if not prompt:
        raise InputError(f"{workflow} has no nodes")
    return prompt
