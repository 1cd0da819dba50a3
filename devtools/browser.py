"""A browser for the tests: Chromium or a relative of it, installed if it is missing and can be installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

CHOICE = "MAGICFACE_BROWSER"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


class NoBrowser(Exception):
    """No browser was found or could be installed; the message says what was tried."""


def executable() -> str | None:
    """The browser that MAGICFACE_BROWSER names, or the system's, which is installed first if it is missing.

    Returns:
        Its path; None for the one that playwright installs for itself.

    Raises:
        NoBrowser: there is none.
    """
    found = os.environ.get(CHOICE) or _installed()
    if found:
        return found
    tried = []
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        tried.append("apt-get install chromium")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _run(["apt-get", "update", "-q"], quiet)
        _run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"], quiet)
        found = _installed()
        if found:
            return found
    tried.append("playwright install chromium")
    if _run([sys.executable, "-m", "playwright", "install", "chromium"], dict(os.environ)):
        return None
    raise NoBrowser(
        f"found no browser ({', '.join(_NAMES)}), and these commands installed none: {'; '.join(tried)}. {CHOICE} can"
        f" name one; {CHOICE}=none skips the browser tests"
    )


def _installed() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def _run(command: list[str], environment: dict[str, str]) -> bool:
    """Run a command without output; returns whether it succeeded."""
    try:
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=900).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
