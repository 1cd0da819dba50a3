"""The parts, each run in a process of its own. A part writes its figures after each measurement."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..bench.exactness import difference
from ..bench.measure import Measured, Plan, measure_shape
from ..bench.memory import Highest, highest
from ..bench.meters import host_waits, peak_bytes
from ..bench.names import (
    AUTHORS,
    BATCHED,
    CACHED,
    CACHED_ON_DEVICE,
    ROWS,
    UNPATCHED,
    UNPATCHED_BATCH,
)
from ..bench.ratios import ratios
from ..bench.report import as_json
from ..bench.sampled import ways_of
from ..bench.scene import SHAPES, Scene
from ..bench.times import Times
from ..bench.whole_runs import whole_runs
from ..figures import write
from .profiled import profiled
from .weighted_attention import compared

Save = Callable[[dict[str, Any]], None]

EVALUATIONS = Plan(
    (UNPATCHED, "1", "2", "3", ROWS, CACHED, CACHED_ON_DEVICE, UNPATCHED_BATCH, BATCHED),
    exact_side_lat=None,
    steps=0,
    parts=False,
    growth=False,
    memory_in_rounds=True,
)


def run(name: str, shape: str, file: Path) -> int:
    """Run a part.

    Args:
        name: of the part.
        shape: of the model.
        file: for its figures.
    """
    logging.getLogger().setLevel(logging.WARNING)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # which would round float32
    return PARTS[name](shape, lambda figures: write(file, figures))


def checks(_: str, save: Save) -> int:
    """The tiny shape on the device: exactness, cached references against computed ones, waits of the host."""
    scene = Scene(SHAPES["tiny"])
    between = difference(scene, 3)
    figures: dict[str, Any] = {"max_error": between.max_error, "equal_regions": between.equal_regions}
    save(figures)
    computed = scene.run(scene.patched_model(3)).predictions
    ways = ways_of(scene)
    for name in (CACHED, CACHED_ON_DEVICE):
        found = ways[name]()(0, None).predictions
        figures[f"{name}: equal bits"] = all(torch.equal(a, b) for a, b in zip(computed, found, strict=True))
    if torch.cuda.is_available():
        waits = {name: highest(ways[name](), host_waits) for name in (UNPATCHED, "3", CACHED, CACHED_ON_DEVICE)}
        figures["host waits in an evaluation"] = waits
    save(figures)
    return int(figures["max_error"] > 1e-4)


def evaluations(shape: str, save: Save) -> int:
    """Time and memory of an evaluation, in the ways of sampling that users have."""
    scene, cached = Scene(SHAPES[shape]), [0.0]  # ways without a cache empty it, so the most counts

    def written(found: Measured) -> None:
        cached.append(_cached_mb(scene))
        save({**as_json(found)["summary"], "cached MB of an evaluation": max(cached)})

    measure_shape(scene, _rounds(shape), _say, EVALUATIONS, written)
    return 0


def _cached_mb(scene: Scene) -> float:
    """What a run's entries in the reference cache take, for each of its evaluations."""
    cache = scene.pack.sampling.references.cache.REFERENCE_CACHE
    return float(cache.nbytes / 2**20 / sum(map(len, scene.levels.values())))


def attention(shape: str, save: Save) -> int:
    """The ways to compute weighted attention side by side."""
    save({"rows": []})
    rows: list[Any] = []
    for row in compared(shape):
        rows.append(row)
        save({"rows": rows})
    return 0


def profile(shape: str, save: Save) -> int:
    """Host waits and kernels of one evaluation."""
    scene, figures = Scene(SHAPES[shape]), {}
    ways = ways_of(scene)
    ways[UNPATCHED]()(0, None)
    for name in (UNPATCHED, "3", CACHED):
        figures[name] = profiled(ways[name]())
        save(figures)
    return 0


def pictures(shape: str, save: Save) -> int:
    """Whole runs with the nodes' own settings."""
    scene, found = Scene(SHAPES[shape]), Measured()
    scene.run(scene.model)
    for number in range(_rounds(shape)):
        for name, seconds in whole_runs(scene, number, say=_say).items():
            found.whole_runs.setdefault(name, []).append(seconds)
        save({"seconds": found.whole_runs, "ratios": ratios(found)})
    return 0


def authors(shape: str, save: Save) -> int:
    """The authors' way: exactness at the size of the pictures, time and memory."""
    scene, found = Scene(SHAPES[shape]), Measured()
    ways = ways_of(scene)
    ways[UNPATCHED]()(0, None)
    for name in (UNPATCHED, "3", AUTHORS):
        memory, sample = Highest(peak_bytes), ways[name]()
        found.times.setdefault(name, Times()).add(sample(0, memory.around))
        found.peak_bytes[name] = memory.value
        save(as_json(found)["summary"])
    found.difference = difference(scene, 3)
    save(as_json(found)["summary"])
    return 0


def _rounds(shape: str) -> int:
    return 1 if shape == "tiny" else 2  # the tiny one only tries the command


def _say(what: str) -> None:
    print(what, flush=True)


PARTS: dict[str, Callable[[str, Save], int]] = {
    "checks": checks,
    "evaluations": evaluations,
    "attention": attention,
    "profile": profile,
    "pictures": pictures,
    "authors": authors,
}
