"""Unpacking one folder of a source archive, trusting nothing in it."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath


class UnsafeArchive(Exception):
    """An archive member that would write outside its folder, or is no plain file or folder."""


def unpack(archive: Path, inner: str, target: Path) -> None:
    """Unpack what lies in the folder `inner` of a source archive's only top folder.

    Only plain files and folders are written, each inside `target`, with ordinary permissions.
    (Python's own extraction filters are missing in the first releases of 3.10 and 3.11.)

    Args:
        archive: a .tar.gz file.
        inner: folder inside the archive, without the top folder, such as "vendor/ComfyUI".
        target: where that folder's content goes.

    Raises:
        UnsafeArchive: a member of that folder is a link or device, or its path leads outside.
    """
    wanted = PurePosixPath(inner).parts
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if parts[1 : 1 + len(wanted)] != wanted:
                continue
            inside = parts[1 + len(wanted) :]
            if any(part == ".." or "\\" in part or ":" in part for part in inside):
                raise UnsafeArchive(f"{archive.name}: {member.name!r} leads outside its folder")
            if member.isdir():
                target.joinpath(*inside).mkdir(parents=True, exist_ok=True)
                continue
            source = tar.extractfile(member) if member.isfile() else None
            if source is None or not inside:
                raise UnsafeArchive(f"{archive.name}: {member.name!r} is neither a plain file nor a folder")
            path = target.joinpath(*inside)
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy)
