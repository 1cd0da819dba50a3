"""A browser for the tests: Chromium or one of its kind, installed where it is missing and that can be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

CHOICE = "MAGICFACE_BROWSER"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


class NoBrowser(Exception):
    """There is none and none could be installed; the message says what was tried."""


def executable() -> str | None:
    """The browser that MAGICFACE_BROWSER names, or the system's own, installed first where it is missing.

    Returns:
        Its path; None for the one that playwright keeps for itself.

    Raises:
        NoBrowser: see there.
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
        f"no browser ({', '.join(_NAMES)}), and none came of: {'; '.join(tried)}. {CHOICE} can name one; with"
        f" {CHOICE}=none the browser's tests are skipped"
    )


def _installed() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def _run(command: list[str], environment: dict[str, str]) -> bool:
    """Run a command quietly; whether it went well."""
    try:
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=900).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
