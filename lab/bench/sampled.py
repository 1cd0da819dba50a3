"""The ways of sampling that are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .authors import Authors
from .names import (
    AUTHORS,
    BATCH,
    BATCHED,
    CACHED,
    CACHED_ON_DEVICE,
    COUNTS,
    PLACED,
    ROWS,
    UNPATCHED,
    UNPATCHED_BATCH,
    UNSEGMENTED,
)
from .rows import Rows
from .scene import Around, Evaluations, Scene

PLENTY_MB = 1 << 20

Sample = Callable[[int, "Around | None"], Evaluations]
"""A way of sampling. Called with a seed, and what is called around each evaluation but the first."""


def ways_of(scene: Scene) -> dict[str, Callable[[], Sample]]:
    """What prepares each way of sampling, by name, in the order in which they take turns."""

    def sampling(model: Any, batch: int = 1) -> Sample:
        return lambda seed, around: scene.run(model, batch, seed, around)

    def patched(count: int, batch: int = 1, **given: Any) -> Callable[[], Sample]:
        return lambda: sampling(scene.patched_model(count, **given), batch)

    return {
        UNPATCHED: lambda: sampling(scene.model),
        **{str(count): patched(count) for count in COUNTS},
        ROWS: lambda: Rows(scene, 3).run,
        CACHED: lambda: second_run(scene, "main memory"),
        CACHED_ON_DEVICE: lambda: second_run(scene, "device"),
        UNSEGMENTED: patched(3, segmented=False),
        PLACED: patched(3, placed=True),
        UNPATCHED_BATCH: lambda: sampling(scene.model, BATCH),
        BATCHED: patched(3, BATCH),
        AUTHORS: lambda: Authors(scene, 3).run,
    }


def second_run(scene: Scene, location: str) -> Sample:
    """Runs that find references in the cache, which another run fills before each: ways without a cache empty it."""
    caching = scene.patched_model(3, schedule=scene.schedule(cache_mb=PLENTY_MB, cache_location=location))

    def run(seed: int, around: Around | None) -> Evaluations:
        scene.run(caching, seed=seed + 1)
        return scene.run(caching, seed=seed, around=around)

    return run
