"""Links to folders: symbolic links, or on Windows junctions, since symbolic links need special rights there."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def link(source: Path, path: Path) -> None:
    """Make `path` a link to the folder `source`; a link to another folder is replaced.

    Raises:
        FileExistsError: `path` is a real folder or file.
    """
    if os.path.lexists(path):
        if path.resolve() == source.resolve():
            return
        if not _is_link(path):
            raise FileExistsError(f"{path} is in the way of a link to {source}: move it elsewhere")
        _remove(path)
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(source), str(path))
    else:
        path.symlink_to(source, target_is_directory=True)


def _is_link(path: Path) -> bool:
    if path.is_symlink():
        return True
    # A junction is not a symbolic link, but readlink works for it, and for nothing else.
    try:
        path.readlink()
    except OSError:
        return False
    return True


def _remove(path: Path) -> None:
    if sys.platform == "win32":
        path.rmdir()  # the junction only, never the folder behind it
    else:
        path.unlink()
