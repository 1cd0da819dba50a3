"""The newest front end of ComfyUI, for tests beside the pinned one."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from . import cache

CHOICE = "MAGICFACE_FRONT_END"
_PACKAGE = "comfyui-frontend-package"
_LIMIT_S = 180


def newest() -> Path | None:
    """The folder for `--front-end-root`: what MAGICFACE_FRONT_END names, or the newest package, which is downloaded.

    Returns:
        None where it cannot be downloaded, or where MAGICFACE_FRONT_END is "none".
    """
    chosen = os.environ.get(CHOICE)
    if chosen:
        return None if chosen == "none" else Path(chosen)
    folder = cache.root() / "front-end"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), _PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    wheels = sorted(folder.glob("*.whl"), key=lambda wheel: [int(part) for part in _version(wheel).split(".")])
    if done.returncode or not wheels:
        return None
    unpacked = folder / _version(wheels[-1])
    if not unpacked.is_dir():
        with zipfile.ZipFile(wheels[-1]) as wheel:
            wheel.extractall(unpacked)
    return unpacked / "comfyui_frontend_package" / "static"


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]
