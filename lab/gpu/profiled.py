"""The host's waits and the longest kernels of one evaluation."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from devtools.pins import ROOT

from ..bench.meters import WAITS
from ..bench.sampled import Sample

LONGEST = 12


def profiled(sample: Sample) -> dict[str, Any]:
    """Profile the first measured evaluation of a run.

    Returns:
        waits: calls for which the host waits, with count and milliseconds; lines: where in the source they are, with
        counts; kernels: the longest, with count and milliseconds; ms: of all kernels. Without a GPU the kernels are
        the CPU's operations.
    """
    found: dict[str, Any] = {}

    def around(evaluate: Callable[[], Tensor]) -> Tensor:
        if found:
            return evaluate()
        results: list[Tensor] = []
        with profile(activities=_activities()) as watch:
            results.append(evaluate())
        found.update(_figures(watch))
        if torch.cuda.is_available():
            with _synchronising() as lines:
                evaluate()
            found["lines"] = dict(lines)
        return results[0]

    sample(0, around)
    return found


def _activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]


def _figures(watch: Any) -> dict[str, Any]:
    events = watch.key_averages()
    on_gpu = torch.cuda.is_available()

    def microseconds(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    # With a GPU, operations of the host are listed too, some with the time of the kernels that they start.
    kernels = [event for event in events if not on_gpu or event.device_type.name != "CPU"]
    kernels = sorted(kernels, key=microseconds, reverse=True)
    return {
        "waits": {e.key: [e.count, e.self_cpu_time_total / 1000] for e in events if e.key in WAITS},
        "kernels": {e.key: [e.count, microseconds(e) / 1000] for e in kernels[:LONGEST]},
        "ms": sum(map(microseconds, kernels)) / 1000,
    }


@contextmanager
def _synchronising() -> Iterator[Counter[str]]:
    """Counts, by file and line, of the operations that make the host wait in this context."""
    lines: Counter[str] = Counter()
    torch.set_warn_always(True)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield lines
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.set_warn_always(False)
    for warning in told:
        if "synchronizing" in str(warning.message):
            path = Path(warning.filename)
            inside = path.is_relative_to(ROOT)
            lines[f"{path.relative_to(ROOT) if inside else path.name}:{warning.lineno}"] += 1
