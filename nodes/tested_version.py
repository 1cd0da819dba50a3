"""One log line where ComfyUI is newer than every version that the pack was tested with."""

from __future__ import annotations

import logging
import re

log = logging.getLogger(__name__)
NEWEST_TESTED = "0.30.0"


def note_untested_version() -> None:
    """Log one line if the running ComfyUI is newer than `NEWEST_TESTED`; an unreadable version is passed over."""
    version = _running_version()
    found = _numbers(version)
    if found is not None and found > (_numbers(NEWEST_TESTED) or ()):
        log.info("MagicFace: ComfyUI %s is newer than %s, the newest version tested.", version, NEWEST_TESTED)


def _running_version() -> str:
    """The version in ComfyUI's module `comfyui_version`; an empty text if there is none."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return ""
    return str(__version__)


def _numbers(version: str) -> tuple[int, ...] | None:
    """The leading numbers of a version without trailing zeros, "0.31.0rc1" -> (0, 31); None if there are none."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    if found is None:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
