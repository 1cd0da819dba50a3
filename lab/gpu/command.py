"""Runs the parts one after another, each in a process of its own with a time limit, and reports what they found."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from devtools.pins import ROOT

from ..figures import read, write
from .advice import advice
from .tables import lines_of

TOTAL_S = 480
# Seconds of each part on a GPU. What is cut off keeps the figures it had, and the next part begins.
LIMITS_S = {
    "checks": 50,
    "evaluations": 110,
    "attention": 50,
    "profile": 60,
    "pictures": 90,
    "authors": 60,
    "tests": 60,
}
# On a shape for trying the command, few tests are enough.
TESTS = {
    "tiny": ["tests/comfy/test_bench.py", "-k", "product_is_exact"],
    "full": ["tests/comfy/test_bench.py", "tests/comfy/test_reference_cache.py"],
}
FILE = "{figures}"
SLOWER = 20  # times these limits without a GPU, where the command is only tried
DONE, FAILED, CUT_OFF, LEFT_OUT = "done", "failed", "cut off", "left out: no time"


def main(device: str, shape: str, file: Path | None) -> int:
    """Run all parts, print tables and advice.

    Args:
        device: "cuda", or "cpu" to try the command.
        shape: of the model.
        file: for the figures as JSON, written after each part.

    Returns:
        0 if all parts ended by themselves and without an error, else 1.
    """
    import torch

    from ..bench.machine import machine

    if device == "cuda" and not torch.cuda.is_available():
        print("dev.py gpu: torch finds no GPU; --device cpu --shapes tiny tries the command itself", file=sys.stderr)
        return 1
    figures: dict[str, Any] = {"machine": machine(), "shape": shape, "parts": {}}
    print(figures["machine"])
    slower = SLOWER if device == "cpu" else 1
    ends = time.monotonic() + TOTAL_S * slower
    for name, limit_s in LIMITS_S.items():
        print(f"\n### {name}\n", flush=True)
        found = run_part(command_of(name, device, shape), min(limit_s * slower, ends - time.monotonic()))
        figures["parts"][name] = found
        if file:
            write(file, figures)
        print("\n".join([*lines_of(name, found["figures"]), "", f"{found['state']}, {found['seconds']:.0f} s"]))
    figures["advice"] = advice({name: found["figures"] for name, found in figures["parts"].items()})
    if file:
        write(file, figures)
    print("\n### Worth changing\n")
    print("\n".join(f"- {line}" for line in figures["advice"] or ["nothing that these figures show."]))
    return int(any(found["state"] != DONE for found in figures["parts"].values()))


def command_of(name: str, device: str, shape: str) -> list[str]:
    """The command of a part, in which FILE stands for the file of its figures."""
    if name == "tests":
        tests = TESTS.get(shape, TESTS["full"])
        return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    own = [sys.executable, str(ROOT / "dev.py"), "--inside", "gpu", "--device", device, "--shapes", shape]
    return [*own, "--part", name, "--figures", FILE]


def run_part(command: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run a part until it ends or its time is over.

    Args:
        command: of the part, which writes its figures to FILE as it goes.
        limit_s: seconds; the process is ended after them.

    Returns:
        state: how it ended; seconds: how long it ran; figures: what it wrote.
    """
    if limit_s <= 0:
        return {"state": LEFT_OUT, "seconds": 0.0, "figures": {}}
    with tempfile.TemporaryDirectory(prefix="magicface-gpu-") as folder:
        file, begins = Path(folder) / "figures.json", time.monotonic()
        try:
            named = [str(file) if word == FILE else word for word in command]
            ended = subprocess.run(named, timeout=limit_s, cwd=ROOT, check=False)
            state = DONE if ended.returncode == 0 else FAILED
        except subprocess.TimeoutExpired:
            state = CUT_OFF
        return {"state": state, "seconds": time.monotonic() - begins, "figures": read(file) if file.exists() else {}}
