"""`comfy node validate` without questions, without usage data, and without writing to the user's home folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from .pins import ROOT

# Words that comfy-cli prints if it accepts the pack, but with complaints.
COMPLAINTS = ("warning", "error")


def main() -> int:
    """Validate the checkout as `comfy node publish` would before it uploads.

    Returns:
        0 if it passes without a warning.
    """
    with tempfile.TemporaryDirectory(prefix="magicface-comfy-cli-") as home:
        # comfy-cli creates a settings folder on every run, and asks whether it may send usage data.
        alone = {"HOME": home, "USERPROFILE": home, "DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-json", "node", "validate"],
            cwd=ROOT,
            env={**os.environ, **alone, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    print(done.stdout, end="", flush=True)
    complained = any(word in done.stdout.lower() for word in COMPLAINTS)
    return 1 if done.returncode or complained else 0


if __name__ == "__main__":
    sys.exit(main())
