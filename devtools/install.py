"""Which ComfyUI to use: the managed one, or the user's own, which is never written to."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from . import environment, pins

NO_PYTHON = """\
COMFYUI_PATH is {path}, but its Python is not in one of the usual folders beside it
(venv, .venv, python_embeded). Name it with COMFYUI_PYTHON, for example
    COMFYUI_PYTHON={example}"""


class InstallError(Exception):
    """The chosen ComfyUI cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Install:
    """A ComfyUI and the Python that runs it.

    Attributes:
        comfyui: folder with main.py.
        python: interpreter with ComfyUI's requirements.
        own: it is the user's, and nothing may be written there.
    """

    comfyui: Path
    python: Path
    own: bool = False


def chosen() -> Install:
    """The install that COMFYUI_PATH and COMFYUI_PYTHON name, or the managed one.

    Raises:
        InstallError: there is no ComfyUI or no Python where they say.
    """
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        return Install(comfyui=environment.comfyui("newest"), python=environment.python())
    return own(Path(path).expanduser().absolute(), os.environ.get("COMFYUI_PYTHON"))


def own(path: Path, python: str | None) -> Install:
    """The user's own install.

    Args:
        path: ComfyUI's folder, or the folder of a portable install, which contains it.
        python: its interpreter; None to search the usual folders.
    """
    comfyui = next((folder for folder in (path, path / "ComfyUI") if (folder / "main.py").is_file()), None)
    if comfyui is None:
        raise InstallError(f"COMFYUI_PATH is {path}, but that folder has no main.py of a ComfyUI")
    _warn_about_version(comfyui)
    if python:
        interpreter = Path(python).expanduser().absolute()
        if not interpreter.is_file():
            raise InstallError(f"COMFYUI_PYTHON is {interpreter}, but there is no such file")
        return Install(comfyui, interpreter, own=True)
    for folder in (comfyui, comfyui.parent):
        for inside in ("venv/bin/python", ".venv/bin/python", "venv/Scripts/python.exe",
                       ".venv/Scripts/python.exe", "python_embeded/python.exe"):  # fmt: skip
            if (folder / inside).is_file():
                return Install(comfyui, folder / inside, own=True)
    example = r"C:\path\to\python.exe" if os.name == "nt" else "/path/to/bin/python"
    raise InstallError(NO_PYTHON.format(path=path, example=example))


def _warn_about_version(comfyui: Path) -> None:
    """Print a note if a ComfyUI is older than those that the pack is tested with."""
    file = comfyui / "comfyui_version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r"__version__\s*=\s*[\"'](\d+(?:\.\d+)*)", text)
    oldest = pins.CORES["oldest"].version
    if found is None or _numbers(found[1]) < _numbers(oldest):
        given = found[1] if found else "of unknown version"
        print(f"Note: the ComfyUI in {comfyui} is {given}; MagicFace needs {oldest} or later", file=sys.stderr)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
