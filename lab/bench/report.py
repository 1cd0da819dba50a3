"""The figures as tables, as JSON and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import MB
from .measure import AGAINST, MEMORY, STAGES, UNPATCHED, UNPATCHED_BATCH, Measured, exponent, ratios

MEANT = {
    "cold_n1": "an evaluation with 1 reference computed / unpatched, the worse stage",
    "cold_n2": "with 2",
    "cold_n3": "with 3",
    "cold_n5": "with 5",
    "warm_n3": "with 3 kept references / unpatched",
    "authors_over_ours_n3": "the authors' way / ours, references computed",
    "authors_over_warm_n3": "the authors' way / ours, references kept",
    "memory_ours_over_authors": "memory beyond the unpatched sampler's: ours / the authors' way",
    "segmentation": "finding regions / an unpatched evaluation",
    "guidance": "semantic guidance / an unpatched evaluation",
    "batch_beside_references": "a batch of 4 but for its one reference pass / unpatched",
    "max_error": "largest difference to the authors' way / the largest prediction",
    "equal_regions": "least share of pixels with the same concept",
    "host_waits": "waits for the device in an evaluation beyond the unpatched sampler's",
}
_LEAST = 1e-6  # a logarithmic axis has no 0
INK, LINE = "#1e1e1e", "#285ac8"


def as_json(found: Measured) -> dict[str, Any]:
    """All figures, the ratios first."""
    return {
        "ratios": ratios(found),
        "seconds": {name: times.by_stage for name, times in found.times.items()},
        "peak_bytes": found.peak_bytes,
        "parts_seconds": found.parts,
        "curves": {
            name: {"exponent": exponent(points), "points": [list(point) for point in points]}
            for name, points in found.curves.items()
        },
    }


def in_markdown(found: Measured) -> list[str]:
    """Tables of ratios, ways to sample, parts and exponents."""
    lines = ["| ratio | value | what |", "|---|---|---|"]
    lines += [f"| {name} | {short(value)} | {MEANT[name]} |" for name, value in ratios(found).items()]
    lines += ["", f"| references | {' | '.join(STAGES)} | seconds | most memory, MB |", "|---|---|---|---|---|"]
    for name, times in found.times.items():
        plain = found.times[UNPATCHED_BATCH if "batch" in name else UNPATCHED]
        cells = [spread(times.over(plain, stage)) for stage in STAGES]
        seconds = median(second for stage in STAGES for second in times.by_stage[stage])
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.3f} | {found.peak_bytes[name] / MB:.0f} |")
    parts = {part: median(seconds) for part, seconds in found.parts.items()}
    whole = sum(parts.values())
    lines += ["", "| part | seconds | of the whole |", "|---|---|---|"]
    lines += [f"| {part} | {seconds:.4f} | {seconds / whole:.1%} |" for part, seconds in parts.items()]
    lines += [f"| together | {whole:.4f} | |", "", "| cost grows with | as its power |", "|---|---|"]
    lines += [f"| {name} | {exponent(points):.2f} |" for name, points in found.curves.items()]
    return lines


def spread(values: Sequence[float]) -> str:
    """The median, and the least and the most of the rounds."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def short(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.3g}"


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
    axes.set_title(f"{cost} by {name}: power {slope:.2f}", fontsize=9)
