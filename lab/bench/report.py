"""The figures of a shape as JSON and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import MB
from .growth import AGAINST, MEMORY, exponent
from .measure import Measured
from .names import UNPATCHED, UNPATCHED_BATCH
from .ratios import ratios
from .tables import STAGES, Summary

_LEAST = 1e-6  # a logarithmic axis has no 0
INK, LINE = "#1e1e1e", "#285ac8"


def as_json(found: Measured) -> dict[str, Any]:
    """All figures: the summary that the tables show, and what was measured."""
    return {
        "summary": summary(found),
        "whole_runs_seconds": found.whole_runs,
        "seconds": {name: times.by_stage for name, times in found.times.items()},
        "peak_bytes": found.peak_bytes,
        "parts_seconds": found.parts,
        "curves": {name: [list(point) for point in points] for name, points in found.curves.items()},
    }


def summary(found: Measured) -> Summary:
    """The figures that the tables show.

    Returns:
        ratios: see `ratios`.
        ways: for each way of sampling the ratio to the unpatched sampler by stage (median, least, most of the rounds),
            the median seconds of an evaluation, and the peak memory in MB if it was measured.
        parts: median seconds of each part of an evaluation.
        exponents: by what is varied, the power that the cost grows with.
    """
    ways: dict[str, dict[str, Any]] = {}
    for name, times in found.times.items():
        plain = found.times[UNPATCHED_BATCH if "batch" in name else UNPATCHED]
        over = {stage: times.over([plain], stage) for stage in STAGES}
        ways[name] = {stage: [median(its), min(its), max(its)] for stage, its in over.items()}
        ways[name]["seconds"] = times.usual
        if name in found.peak_bytes:
            ways[name]["peak_mb"] = found.peak_bytes[name] / MB
    return {
        "ratios": ratios(found),
        "ways": ways,
        "parts": {part: median(seconds) for part, seconds in found.parts.items()},
        "exponents": {name: exponent(points) for name, points in found.curves.items()},
    }


def plot(found: Measured, file: Path) -> None:
    """The curves with the lines of their exponents, both axes logarithmic."""
    rows = -(-len(found.curves) // 2)
    figure = Figure(figsize=(8, 3 * rows), dpi=100, layout="constrained")
    for axes in figure.subplots(rows, 2, squeeze=False).flat[len(found.curves) :]:
        axes.remove()
    for axes, (name, points) in zip(figure.axes, found.curves.items(), strict=True):
        _draw(axes, name, points)
    figure.savefig(file)


def _draw(axes: Axes, name: str, points: Sequence[tuple[float, float]]) -> None:
    """One panel."""
    x, y = np.array([(value, max(cost, _LEAST)) for value, cost in points]).T  # a cost may be lost in the noise
    slope = exponent(list(zip(x, y, strict=True)))
    middle = np.exp(np.log(x).mean()), np.exp(np.log(y).mean())
    axes.loglog(x, middle[1] * (x / middle[0]) ** slope, color=LINE)
    axes.loglog(x, y, "o", color=INK)
    axes.set_xticks(x, [f"{value:g}" for value in x], minor=False)
    axes.set_yticks(y, [f"{cost:.2f}" for cost in y], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.4)
    cost = {"batch": "seconds", MEMORY: "MB beyond unpatched", AGAINST: "ratio"}.get(name, "seconds beyond unpatched")
    axes.set(xlabel=name, ylabel=cost, title=f"power {slope:.2f}")
