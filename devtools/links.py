"""Links to folders: symbolic links, or on Windows junctions, since symbolic links need special rights there."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def link(source: Path, place: Path) -> None:
    """Make `place` a link to the folder `source`; a link to another folder is replaced.

    Raises:
        FileExistsError: `place` is a real folder or file.
    """
    if os.path.lexists(place):
        if place.resolve() == source.resolve():
            return
        if not _is_link(place):
            raise FileExistsError(f"{place} is in the way of a link to {source}: move it elsewhere")
        _remove(place)
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(source), str(place))
    else:
        place.symlink_to(source, target_is_directory=True)


def _is_link(place: Path) -> bool:
    if place.is_symlink():
        return True
    # A junction is not a symbolic link, but readlink works for it, and for nothing else.
    try:
        place.readlink()
    except OSError:
        return False
    return True


def _remove(place: Path) -> None:
    if sys.platform == "win32":
        place.rmdir()  # the junction only, never the folder behind it
    else:
        place.unlink()
