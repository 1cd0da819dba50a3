"""What a picture costs at several sizes: the seconds that a person waits, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import MB
from ..figures import write
from .growth import against_authors
from .machine import machine
from .memory import highest
from .meters import peak_bytes
from .names import UNPATCHED
from .sampled import PLENTY_MB, ways_of
from .scene import SHAPES, Scene
from .tables import sizes_table
from .whole_runs import whole_runs

SHAPE = "narrow"
SIDES_LAT = (64, 96, 128)


def main(file: Path | None, rounds: int, sides_lat: Sequence[int] = SIDES_LAT) -> int:
    """Measure the sizes one after another and print the table.

    Args:
        file: for the figures as JSON, written after each measurement.
        rounds: how often each whole run is repeated, in turns.
        sides_lat: sides of the latents.
    """
    figures: dict[str, Any] = {"machine": machine(), "rounds": rounds, "sizes": {}}
    for side in sides_lat:
        its = figures["sizes"][str(side)] = {}
        for name, measured in _measurements(Scene(SHAPES[SHAPE], side), rounds).items():
            print(f"{SHAPE}, {side} x {side} latents: {name}", flush=True)
            its[name] = measured()
            if file:
                write(file, figures)
    print("\n".join(sizes_table(figures["sizes"])))
    return 0


def _measurements(scene: Scene, rounds: int) -> dict[str, Callable[[], Any]]:
    def seconds() -> dict[str, list[float]]:
        scene.run(scene.model)
        runs = [whole_runs(scene, number) for number in range(rounds)]
        return {name: [run[name] for run in runs] for name in runs[0]}

    def memory_mb() -> float:
        ways = ways_of(scene)
        return (highest(ways["3"](), peak_bytes) - highest(ways[UNPATCHED](), peak_bytes)) / MB

    def cached_mb() -> float:
        cache = scene.pack.sampling.references.cache.REFERENCE_CACHE
        cache.clear()
        scene.run(scene.patched_model(3, schedule=scene.schedule(cache_mb=PLENTY_MB)))
        size = cache.nbytes / sum(map(len, scene.levels.values()))
        cache.clear()
        return float(size / MB)

    return {
        "seconds": seconds,
        "authors_over_ours": lambda: against_authors(scene)[1],
        "memory_mb": memory_mb,
        "cached_mb": cached_mb,
    }
