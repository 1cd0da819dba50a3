"""The user's cache folder for what dev.py sets up. Every clone uses it; two set-ups at once do not disturb each other.

This module runs before the environment exists, so it has the standard library only. That is why it does without
platformdirs and filelock: `root` and `lock` do the same. (filelock's handles are also not inherited by children.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

COMPLETE = ".magicface-complete"


def root() -> Path:
    """The folder of everything that `dev.py` sets up; the environment variable MAGICFACE_CACHE moves it."""
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
    """Run `build(folder)`, unless this or another process has finished it before.

    The folder is built in place, since a virtual environment cannot be moved. A marker file is written last; a folder
    without it was interrupted, and is deleted and built again.

    Args:
        folder: for the result; its name contains the key of the pins.
        build: fills the folder.
        works: a quick check whether a finished build still works.
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
            print(f"An earlier set-up did not finish or no longer works: starting over in {folder}", flush=True)
            shutil.rmtree(folder)
        build(folder)
        (folder / COMPLETE).write_text("", encoding="utf-8")
    return folder


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file, after waiting for it. The operating system releases it when all its holders have ended.

    Child processes inherit it: if the set-up is killed while pip runs, pip still holds the lock.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try_lock(handle):
            print("Another set-up is running: waiting for it", flush=True)
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
