"""The server of a trial: a running one, or one of its own; and the checkpoint there."""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools.client import Client
from devtools.install import chosen
from devtools.model import LOADER, REPLACED
from devtools.server import Server

from .errors import TrialError

NEEDED = ("MagicFaceApply", "MagicFaceConceptMask", "MagicFaceSegmentationPreview")


@dataclass(frozen=True)
class Host:
    """A server that answers.

    Attributes:
        client: talks to it.
        known: its nodes, as /object_info describes them.
        checkpoint: its name there; None for the small model.
        resident_bytes: the memory of its process, where that can be known.
    """

    client: Client
    known: dict[str, Any]
    checkpoint: str | None
    resident_bytes: Callable[[], int] | None = None


@contextmanager
def host(server: str | None, checkpoint: str | None) -> Iterator[Host]:
    """The server while the trial runs.

    Args:
        server: the address of a running one; None to start one.
        checkpoint: a file, or a name that the server knows; None for the small model.

    Raises:
        TrialError: the server does not answer, or lacks the pack or the checkpoint.
    """
    if server:
        yield _checked(Client((server if "://" in server else f"http://{server}").rstrip("/")), checkpoint)
        return
    install = chosen()
    with tempfile.TemporaryDirectory(prefix="magicface-trial-", ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        print("Starting ComfyUI", flush=True)
        with Server(install, base, flags=_folder_of(checkpoint, base)) as own:
            yield _checked(own.client, checkpoint, own.resident_bytes if Path("/proc").is_dir() else None)


def _folder_of(checkpoint: str | None, base: Path) -> tuple[str, ...]:
    """Flags with which ComfyUI finds a checkpoint that is given as a file."""
    if not checkpoint or not Path(checkpoint).is_file():
        return ()
    paths = base / "folder_of_the_checkpoint.yaml"  # JSON is YAML
    folder = str(Path(checkpoint).resolve().parent)
    paths.write_text(json.dumps({"trial": {"base_path": folder, "checkpoints": "."}}), encoding="utf-8")
    return ("--extra-model-paths-config", str(paths))


def _checked(client: Client, checkpoint: str | None, resident_bytes: Callable[[], int] | None = None) -> Host:
    try:
        known = client.get_json("/object_info")
    except (OSError, ValueError) as error:
        raise TrialError(f"--server {client.url} does not answer as ComfyUI does ({error})") from None
    missing = [name for name in NEEDED if name not in known]
    if missing:
        raise TrialError(f"the server does not know {', '.join(missing)}: is MagicFace installed there?")
    if checkpoint is None:
        if LOADER["class_type"] not in known:
            raise TrialError("that server has no small model: name a checkpoint of it with --checkpoint")
        return Host(client, known, None, resident_bytes)
    kind, *more = known[REPLACED]["input"]["required"]["ckpt_name"]
    names = kind if isinstance(kind, list) else more[0].get("options", [])
    return Host(client, known, named(checkpoint, names), resident_bytes)


def named(checkpoint: str, names: list[str]) -> str:
    """The name on the server of a checkpoint that is given by its name or as a file.

    Raises:
        TrialError: the server has none of that name, or several.
    """
    if checkpoint in names:
        return checkpoint
    file = checkpoint.replace("\\", "/").rpartition("/")[2]
    found = [name for name in names if name.replace("\\", "/").rpartition("/")[2] == file]
    if len(found) == 1:
        return found[0]
    if found:
        raise TrialError(f"--checkpoint {checkpoint} may be {' or '.join(found)}: give the whole name")
    near = difflib.get_close_matches(file, names, 3, 0.4) or names[:3]
    there = f"it has {', '.join(near)}{' and others' if len(names) > len(near) else ''}"
    if not names:
        there = "it has none; COMFYUI_PATH or --server names a ComfyUI that has it"
    raise TrialError(f"the server knows no checkpoint {checkpoint!r}; {there}")
