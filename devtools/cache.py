"""The per-user cache folder: built once, found by every clone, safe against interruption and races."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

COMPLETE = ".magicface-complete"


class Locked(Exception):
    """Another process holds the lock."""


def root() -> Path:
    """Folder that holds everything `dev.py` sets up; the variable MAGICFACE_CACHE moves it."""
    chosen = os.environ.get("MAGICFACE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "magicface"


def build_once(folder: Path, build: Callable[[Path], None], works: Callable[[], bool] = lambda: True) -> Path:
    """Run `build(folder)` unless an earlier run, by this or another process, has finished it.

    A build in place (a virtual environment cannot be moved) with a marker written last: what lacks
    the marker was interrupted and is built again from nothing.

    Args:
        folder: where the result belongs; its name holds the key of the pins.
        build: fills the folder.
        works: a quick look whether a finished build is still good.
    """

    def finished() -> bool:
        return (folder / COMPLETE).is_file() and works()

    if finished():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_name(folder.name + ".lock")):
        if finished():
            return folder
        if folder.exists():
            print(f"An earlier set-up did not finish: starting over in {folder}", flush=True)
            shutil.rmtree(folder)
        build(folder)
        (folder / COMPLETE).write_text("", encoding="utf-8")
    return folder


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock file that the operating system lets go of when its holders end, however they end.

    The handle is inheritable: a child that outlives us, a pip whose parent was killed, still holds
    the lock while it writes.

    Raises:
        Locked: it is taken and `wait` is false.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try_lock(handle):
            if not wait:
                raise Locked(str(path))
            print("Another set-up is at work: waiting for it", flush=True)
            while not _try_lock(handle):
                time.sleep(0.5)
        os.set_inheritable(handle, True)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
