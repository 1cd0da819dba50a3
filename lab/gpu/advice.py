"""What the figures show to be worth changing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from ..bench.names import CACHED, CACHED_ON_DEVICE, UNPATCHED

GAIN = 0.9  # a way that takes less than this part of the time of the one in use is worth a closer look
MOST = {"floor_n3": 1.05, "warm_n3": 1.10}
MAX_ERROR, MAX_ERROR_HALF = 1e-4, 2e-2
MAX_WAITS = 1  # of the host in an evaluation, beyond the unpatched sampler's
_MEANT = {
    "floor_n3": "computing references costs more than the UNet rows that it needs",
    "warm_n3": "cached references cost more than they should",
}


def advice(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence for each thing worth changing.

    Args:
        parts: the figures by part, as far as they were measured.
    """
    return [
        *_checks(parts.get("checks", {})),
        *_costs(parts.get("evaluations", {})),
        *_attention(parts.get("attention", {}).get("rows", [])),
        *_kernels(parts.get("profile", {})),
    ]


def _checks(figures: Mapping[str, Any]) -> Iterator[str]:
    if figures.get("max_error", 0.0) > MAX_ERROR:
        yield f"The product differs from the authors' way by {figures['max_error']:.1e}: find out why before all else."
    for name, value in figures.items():
        if name.endswith("equal bits") and not value:
            yield f"{name.removesuffix(': equal bits')}: the prediction has other bits than with computed references."
    waits = figures.get("host waits in an evaluation", {})
    for name, count in waits.items():
        if count - waits[UNPATCHED] > MAX_WAITS:
            more = count - waits[UNPATCHED]
            yield f"{name}: the host waits {more} times more than unpatched in an evaluation; the profile names lines."


def _costs(figures: Mapping[str, Any]) -> Iterator[str]:
    for name, most in MOST.items():
        value = figures.get("ratios", {}).get(name, 0.0)
        if value > most:
            yield f"{name} is {value:.2f}, more than {most:.2f}: {_MEANT[name]}; the profile shows what takes the time."
    ways = figures.get("ways", {})
    if {CACHED, CACHED_ON_DEVICE} <= ways.keys():
        here, there = ways[CACHED]["seconds"], ways[CACHED_ON_DEVICE]["seconds"]
        if here * GAIN > there:
            yield (
                f"Copying cached references from main memory takes {1000 * (here - there):.1f} ms of an evaluation's"
                f" {1000 * here:.1f} ms: worth pinned memory and copies ahead of the block, or keep_on = device."
            )


def _attention(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if "ratio" in row and row["error"] < MAX_ERROR_HALF:
            ratios.setdefault(row["way"], []).append(row["ratio"])
    for name, its in ratios.items():
        if median(its) < GAIN:
            first = max(row["first_s"] for row in rows if row["way"] == name and "first_s" in row)
            yield (
                f"Weighted attention, {name}: {median(its):.2f} of the time of the way in use (first call: {first:.2f}"
                " s)."
            )


def _kernels(figures: Mapping[str, Any]) -> Iterator[str]:
    plain = figures.get(UNPATCHED, {}).get("kernels", {})
    its = figures.get(CACHED, {})
    for name, (count, ms) in its.get("kernels", {}).items():
        more = ms - plain.get(name, [0, 0.0])[1]
        if more > 0.05 * its["ms"]:
            yield f"With cached references, {name} takes {more:.1f} ms more than unpatched ({count} calls)."
