"""`dev.py bench`."""

from __future__ import annotations

import json
import logging
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .authors import SHARED
from .measure import Measured, measure_shape, ratios
from .report import as_json, plot
from .scene import SHAPES, Scene
from .tables import tables

MAX_ERROR = 1e-4  # of the largest prediction, for float32
MAX_ERROR_HALF = 5e-2  # for float16, which has three digits: this bound does not show exactness
MIN_EQUAL = 0.99  # share of pixels with equal regions: where two tokens tie, either may win
_EXACT = {
    torch.float32: "exact: the same predictions and regions as the authors' way.",
    torch.float16: "as close to the authors' way as half precision allows.",
}


def main(names: list[str], rounds: int, file: Path | None, picture: Path | None) -> int:
    """Measure and print. Fail if the product is not exact, never because of a time.

    Args:
        names: of the shapes; if empty, all that this machine can run.
        rounds: how many times each way of sampling runs.
        file: for the figures as JSON.
        picture: for the plot of the last shape.
    """
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        print(f"dev.py bench: no shape {', '.join(unknown)}; there are: {', '.join(SHAPES)}", file=sys.stderr)
        return 1
    logging.getLogger().setLevel(logging.WARNING)
    torch.backends.cudnn.allow_tf32 = False  # which would round float32
    print(machine())
    figures: dict[str, Any] = {"machine": machine(), "rounds": rounds, "shapes": {}}
    exact = True
    for name in names or SHAPES:
        shape = SHAPES[name]
        if shape.dtype is torch.float16 and not torch.cuda.is_available():
            print(f"\n{name}: skipped: it is SDXL at its full size in half precision and needs a GPU")
            continue
        found = measure_shape(Scene(shape), rounds, partial(_print, name))
        figures["shapes"][name] = as_json(found)
        print(f"\n### {name}\n")
        for lines in tables(figures["shapes"][name]["summary"]).values():
            print("\n".join([*lines, ""]))
        # The ratios at the top are those of the narrow shape, or of the first one measured.
        if "ratios" not in figures or name == "narrow":
            figures["ratios"] = ratios(found)
        if is_exact(found, shape.dtype):
            print(f"{name}: {_EXACT[shape.dtype]}")
        else:
            exact = False
        if picture:
            plot(found, picture)
    if file:
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"{rounds} rounds. Other work on the machine changes the ratios: see their spread.")
    print(f"Shared with the authors' way, so max_error shows no error there: {'; '.join(SHARED)}.")
    if not exact:
        print("dev.py bench: not exact: see max_error and equal_regions", file=sys.stderr)
    return int(not exact)


def _print(name: str, what: str) -> None:
    print(f"{name}: {what}", flush=True)


def is_exact(found: Measured, dtype: torch.dtype) -> bool:
    """Whether the product equals the authors' way, as far as the precision of the weights shows it."""
    assert found.difference is not None
    if dtype is torch.float16:
        return found.difference.max_error <= MAX_ERROR_HALF
    return found.difference.max_error <= MAX_ERROR and found.difference.equal_regions >= MIN_EQUAL


def machine() -> str:
    """The machine and the versions that the figures come from."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{device}, torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"
