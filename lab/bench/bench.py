"""`dev.py bench`."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..figures import write
from .authors import SHARED
from .machine import machine
from .measure import LARGE, QUICK, WHOLE, Measured, Plan, measure_shape
from .ratios import ratios
from .report import as_json, plot
from .scene import FULL_ON_CPU, SHAPES, Scene
from .tables import tables

MAX_ERROR = 1e-4  # of the largest prediction, for float32
MAX_ERROR_HALF = 5e-2  # for float16, which has three digits: this bound does not show exactness
MIN_EQUAL = 0.99  # share of pixels with equal regions: where two tokens tie, either may win
QUICK_SIDE_LAT = 48
_EXACT = {
    torch.float32: "exact: the same predictions and regions as the authors' way.",
    torch.float16: "as close to the authors' way as half precision allows.",
}


@dataclass(eq=False)
class Report:
    """The figures so far, in a file that is never half written.

    Attributes:
        file: for the figures as JSON; None for no file.
        figures: of all shapes. The ratios at the top are those of the narrow shape, or of the first one measured.
    """

    file: Path | None
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, found: Measured) -> None:
        """Write the figures, with those of a shape as far as they are measured."""
        self.figures["shapes"][name] = as_json(found)
        if name in ("narrow", next(iter(self.figures["shapes"]))):
            self.figures["ratios"] = ratios(found)
        if self.file:
            write(self.file, self.figures)


def main(names: list[str], rounds: int, file: Path | None, picture: Path | None, quick: bool = False) -> int:
    """Measure and print. Fail if the product is not exact, never because of a time.

    Args:
        names: of the shapes; if empty, all that this machine runs in minutes; with `quick`, the narrow one.
        rounds: how many times each way of sampling runs.
        file: for the figures as JSON, written after each measurement.
        picture: for the plot of the last shape.
        quick: measure the main figures only, on a smaller latent.
    """
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        print(f"dev.py bench: no shape {', '.join(unknown)}; there are: {', '.join(SHAPES)}", file=sys.stderr)
        return 1
    logging.getLogger().setLevel(logging.WARNING)
    torch.backends.cudnn.allow_tf32 = False  # which would round float32
    print(machine())
    report = Report(file, {"machine": machine(), "rounds": rounds, "quick": quick, "shapes": {}})
    exact = True
    for name in names or (["narrow"] if quick else SHAPES):
        if name == "full" and not torch.cuda.is_available() and not names:
            print(f"\n{name}: skipped: SDXL at its full size; --shapes full measures it, half an hour on two cores")
            continue
        scene, plan = planned(name, quick)
        found = measure_shape(scene, rounds, partial(_say, name), plan, partial(report.add, name))
        report.add(name, found)
        print(f"\n### {name}, {scene.side_lat} x {scene.side_lat} latents\n")
        for lines in tables(report.figures["shapes"][name]["summary"]).values():
            print("\n".join([*lines, ""]))
        if found.difference is None:
            print(f"{name}: exactness is not checked.")
        elif is_exact(found, scene.shape.dtype):
            print(f"{name}: {_EXACT[scene.shape.dtype]}")
        else:
            exact = False
        if picture and found.curves:
            plot(found, picture)
    print(f"Rounds: {rounds}. Other work on the machine changes the ratios: see their spread.")
    print(f"Shared with the authors' way, so max_error shows no error there: {'; '.join(SHARED)}.")
    if not exact:
        print("dev.py bench: not exact: see max_error and equal_regions", file=sys.stderr)
    return int(not exact)


def _say(name: str, what: str) -> None:
    print(f"{name}: {what}", flush=True)


def planned(name: str, quick: bool) -> tuple[Scene, Plan]:
    """The scene of a shape, and what is measured of it."""
    if name == "full" and not torch.cuda.is_available():
        return Scene(FULL_ON_CPU), LARGE
    if quick:
        return Scene(SHAPES[name], min(QUICK_SIDE_LAT, SHAPES[name].side_lat)), QUICK
    return Scene(SHAPES[name]), WHOLE


def is_exact(found: Measured, dtype: torch.dtype) -> bool:
    """Whether the product equals the authors' way, as far as the precision of the weights shows it."""
    assert found.difference is not None
    if dtype is torch.float16:
        return found.difference.max_error <= MAX_ERROR_HALF
    return found.difference.max_error <= MAX_ERROR and found.difference.equal_regions >= MIN_EQUAL
