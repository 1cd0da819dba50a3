"""Unpacks one folder of a source archive."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

# Before 3.10.12 and 3.11.4, Python has no filter against paths that lead out of the target folder. The set-up also runs
# there: it unpacks only archives whose hash it has checked.
FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


class UnsafeArchive(Exception):
    """An archive member that would be written outside the target folder, or is not a plain file or folder."""


def unpack(archive: Path, inner: str, target: Path) -> None:
    """Unpack the folder `inner` below the single top folder of a source archive.

    Args:
        archive: a .tar.gz file.
        inner: folder inside the archive, without the top folder, such as "vendor/ComfyUI".
        target: folder for the content of `inner`.

    Raises:
        UnsafeArchive: a member of that folder is a link or a device, or its path leads outside.
    """
    wanted = PurePosixPath(inner).parts
    depth = 1 + len(wanted)
    with tarfile.open(archive, "r:gz") as tar:
        members = [member for member in tar if PurePosixPath(member.name).parts[1:depth] == wanted]
        for member in members:
            inside = "/".join(PurePosixPath(member.name).parts[depth:])
            if not (member.isdir() or (member.isfile() and inside)):
                raise UnsafeArchive(f"{archive.name}: {member.name!r} is neither a plain file nor a folder")
            member.name = inside
        try:
            tar.extractall(target, members, **FILTER)
        except tarfile.TarError as error:
            raise UnsafeArchive(f"{archive.name}: {error}") from error
