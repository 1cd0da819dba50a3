"""One log line if ComfyUI is newer than every version that the pack was tested with."""

import logging
import re

log = logging.getLogger(__name__)
NEWEST_TESTED = "0.30.0"


def note_untested_version() -> None:
    """Log one line if the running ComfyUI is newer than `NEWEST_TESTED`; nothing if its version is missing or odd."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return
    if _numbers(str(__version__)) > _numbers(NEWEST_TESTED):
        log.info("MagicFace: ComfyUI %s is newer than %s, the newest version tested.", __version__, NEWEST_TESTED)


def _numbers(version: str) -> list[int]:
    """The first four numbers of a version, "0.31.0rc1" -> [0, 31, 0, 0]; none if it does not begin with a number."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return ([int(part) for part in found[1].split(".")] + 4 * [0])[:4] if found else []
