"""Peak memory of the ways of sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .. import MB
from .meters import peak_bytes
from .names import UNPATCHED
from .sampled import Sample, ways_of
from .scene import Scene


class Highest:
    """The highest value that a meter gives for an evaluation."""

    def __init__(self, meter: Callable[[Callable[[], Any]], int]) -> None:
        self._meter = meter
        self.value = 0

    def around(self, evaluate: Callable[[], Tensor]) -> Tensor:
        """Measure an evaluation."""
        results: list[Tensor] = []
        self.value = max(self.value, self._meter(lambda: results.append(evaluate())))
        return results[0]


def highest(sample: Sample, meter: Callable[[Callable[[], Any]], int]) -> int:
    """The highest value that a meter gives for an evaluation of a run."""
    found = Highest(meter)
    sample(0, found.around)
    return found.value


def memory_curve(scene: Scene) -> list[tuple[float, float]]:
    """Peak memory in MB beyond the unpatched sampler's, by size of the latent."""
    points: list[tuple[float, float]] = []
    for part in (2, 3, 4):
        size = Scene(scene.shape, scene.side_lat * part // 8 * 2)
        ways = ways_of(size)
        peak, plain = (highest(ways[name](), peak_bytes) for name in ("3", UNPATCHED))
        points.append((size.side_lat**2, (peak - plain) / MB))
    return points
