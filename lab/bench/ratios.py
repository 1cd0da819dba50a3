"""The main figures of a shape, as far as they are measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import StatisticsError, median
from typing import TYPE_CHECKING

from .names import AUTHORS, BATCHED, CACHED, COUNTS, ROWS, UNPATCHED, UNPATCHED_BATCH
from .tables import STAGES
from .whole_runs import EXACT, FIRST, NEXT, PLAIN

if TYPE_CHECKING:
    from .measure import Measured


def ratios(found: Measured) -> dict[str, float]:
    """The main figures, see `MEANT` in tables.py; of the two stages the worse one counts.

    What is not measured, or not yet, is left out.
    """
    values: dict[str, float] = {}
    for name, compute in _computed(found).items():
        try:
            values[name] = compute()
        except (KeyError, StatisticsError):  # a way, or all of its rounds, are missing
            continue
    if found.host_waits is not None:
        values["host_waits"] = found.host_waits
    if found.difference is not None:
        values["max_error"] = found.difference.max_error
        values["equal_regions"] = found.difference.equal_regions
    return values


def _computed(found: Measured) -> dict[str, Callable[[], float]]:
    times, peak = found.times, found.peak_bytes

    def by_stage(name: str, *others: str) -> list[float]:
        return [median(times[name].over([times[other] for other in others], stage)) for stage in STAGES]

    def worse(name: str, *others: str) -> float:
        return max(by_stage(name, *others))

    def gain(name: str) -> float:
        return min(by_stage(AUTHORS, name))

    def part(name: str, of: str = UNPATCHED) -> float:
        return median(found.parts[name]) / times[of].usual

    def whole(name: str) -> float:
        runs = found.whole_runs
        return median(a / b for a, b in zip(runs[name], runs[PLAIN], strict=True))

    def memory() -> float:
        return (peak["3"] - peak[UNPATCHED]) / (peak[AUTHORS] - peak[UNPATCHED])

    def beside_references() -> float:
        return worse(BATCHED, UNPATCHED_BATCH) - part("reference pass", UNPATCHED_BATCH)

    return {
        "first_n3": partial(whole, FIRST),
        "next_n3": partial(whole, NEXT),
        "refresh_n3": partial(whole, FIRST),  # the recommended value of refresh is the nodes' own
        "exact_n3": partial(whole, EXACT),
        "floor_n3": partial(worse, "3", UNPATCHED, ROWS),
        **{f"cold_n{count}": partial(worse, str(count), UNPATCHED) for count in COUNTS},
        "warm_n3": partial(worse, CACHED, UNPATCHED),
        "authors_over_ours_n3": partial(gain, "3"),
        "authors_over_warm_n3": partial(gain, CACHED),
        "memory_ours_over_authors": memory,
        "segmentation": partial(part, "segmentation"),
        "guidance": partial(part, "guidance"),
        "batch_beside_references": beside_references,
    }
