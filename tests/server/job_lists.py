"""What tests of job lists share: small jobs with two references, programs, waiting, and the pixels of what was made."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from devtools import demo

LIMIT_S = 300
WORDS = "a person with a face, hair and a shirt wearing a hat"
REFERENCES = ("hat", "scarf")
SMALL = {
    "EmptyLatentImage.width": 128,
    "EmptyLatentImage.height": 128,
    "MagicFaceReference.size": 128,
    "KSampler.steps": 3,
}


def copy_references(folder: Path) -> None:
    """Put the pictures of the references beside a list."""
    for name in REFERENCES:
        shutil.copyfile(demo.PICTURES / f"magicface_portrait_{name}.png", folder / f"{name}.png")


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program that ends with the block, even if what the test waits for does not come."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def until(true: Callable[[], bool], told: Callable[[], str] = str, over: Callable[[], Any] = str) -> None:
    """Wait until a condition is true; `over` says whether it cannot become true any more."""
    end = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < end and not over(), told()
        time.sleep(0.05)


def pixels(folder: Path) -> dict[str, Any]:
    """The pixels of a list's pictures, by their names."""
    found = {}
    for file in folder.glob("*.png"):
        with Image.open(file) as picture:
            found[file.stem] = np.asarray(picture.convert("RGB"))
    return found
