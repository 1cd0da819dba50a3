"""All measurements of a shape. The ways of sampling take turns, so that other work on the machine slows down all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch

from .. import MB
from .authors import Authors
from .exactness import Difference, difference
from .meters import PARTS, Parts, host_waits, peak_bytes
from .scene import Evaluations, Scene
from .tables import STAGES

COUNTS = (1, 2, 3, 5)
BATCH = 4
PLENTY_MB = 1 << 20
UNPATCHED, AUTHORS, CACHED = "unpatched", "authors, 3", "3, cached"
UNSEGMENTED, PLACED = "3, no regions", "3, placed"
MEMORY, AGAINST = "latent cells (memory)", "latent cells (authors / ours)"
UNPATCHED_BATCH, BATCHED = f"unpatched, batch {BATCH}", f"3, batch {BATCH}"


@dataclass(eq=False)
class Times:
    """Seconds of an evaluation for one way of sampling, by stage and round."""

    by_stage: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})

    def add(self, found: Evaluations) -> None:
        """Add a round."""
        for stage, seconds in found.seconds.items():
            self.by_stage[stage].append(median(seconds))

    def over(self, other: Times, stage: str) -> list[float]:
        """The ratios to another way's times, by round."""
        return [a / b for a, b in zip(self.by_stage[stage], other.by_stage[stage], strict=True)]


@dataclass(eq=False)
class Measured:
    """All figures of one shape.

    Attributes:
        times: by way of sampling.
        peak_bytes: peak memory of an evaluation, by way of sampling.
        parts: seconds of an evaluation with three references, by part and round.
        difference: between the product and the authors' way.
        host_waits: waits for the GPU in an evaluation, beyond those of the unpatched sampler; None without a GPU.
        curves: by what is varied, pairs of its value and the cost: seconds beyond the unpatched sampler's, unless the
            name says something else.
    """

    times: dict[str, Times] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    parts: dict[str, list[float]] = field(default_factory=dict)
    difference: Difference | None = None
    host_waits: int | None = None
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def measure_shape(scene: Scene, rounds: int, say: Callable[[str], None]) -> Measured:
    """Measure a shape.

    Args:
        scene: of the shape.
        rounds: how many times each way of sampling runs.
        say: called with a text about the next measurement.
    """
    found = Measured()
    ways = ways_of(scene)
    say("exactness")
    found.difference = difference(scene, 3)
    for name in ways:
        found.times[name] = Times()
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name, run in ways.items():
            found.times[name].add(run(number))
        for part, seconds in parts_of(scene).items():
            found.parts.setdefault(part, []).append(seconds)
    scene.pack.sampling.references.cache.REFERENCE_CACHE.clear()
    say("curves")
    found.curves = curves(scene, found.times)
    say("memory")  # last, since the profiler slows down what comes after it
    found.peak_bytes = peaks(scene)
    found.curves[MEMORY] = memory_curve(scene)
    if torch.cuda.is_available():
        found.host_waits = highest(scene, scene.patched_model(3), host_waits) - highest(scene, scene.model, host_waits)
    return found


def ways_of(scene: Scene) -> dict[str, Callable[[int], Evaluations]]:
    """The ways of sampling that are compared; each is called with a seed."""

    def sampling(model: Any, batch: int = 1) -> Callable[[int], Evaluations]:
        return lambda seed: scene.run(model, batch, seed)

    ways = {UNPATCHED: sampling(scene.model)}
    for count in COUNTS:
        ways[str(count)] = sampling(scene.patched_model(count))
    # All other ways run with a cache size of 0, so they may have emptied the cache since the last round.
    ways[CACHED] = partial(_second_run, scene)
    ways[UNSEGMENTED] = sampling(scene.patched_model(3, segmented=False))
    ways[PLACED] = sampling(scene.patched_model(3, placed=True))
    ways[UNPATCHED_BATCH] = sampling(scene.model, BATCH)
    ways[BATCHED] = sampling(scene.patched_model(3), BATCH)
    ways[AUTHORS] = Authors(scene, 3).run
    return ways


def _second_run(scene: Scene, seed: int) -> Evaluations:
    caching = scene.patched_model(3, cache_mb=PLENTY_MB)
    scene.run(caching, seed=seed + 1)
    return scene.run(caching, seed=seed)


def highest(scene: Scene, model: Any, meter: Callable[[Callable[[], Any]], int], batch: int = 1) -> int:
    """The highest value that a meter gives for an evaluation of a run."""
    readings = []

    def around(evaluate: Callable[[], Any]) -> Any:
        results: list[Any] = []
        readings.append(meter(lambda: results.append(evaluate())))
        return results[0]

    scene.run(model, batch, around=around)
    return max(readings)


def peaks(scene: Scene) -> dict[str, int]:
    """Peak memory of an evaluation, by way of sampling; the higher of both stages."""
    authors, latent = Authors(scene, 3), scene.start().to(scene.device)
    of_authors = [partial(authors.evaluate, latent, scene.levels[stage][0], stage) for stage in STAGES]
    caching = scene.patched_model(3, cache_mb=PLENTY_MB)
    scene.run(caching)
    cached = highest(scene, caching, peak_bytes)
    scene.pack.sampling.references.cache.REFERENCE_CACHE.clear()
    return {
        UNPATCHED: highest(scene, scene.model, peak_bytes),
        **{str(count): highest(scene, scene.patched_model(count), peak_bytes) for count in COUNTS},
        CACHED: cached,
        UNSEGMENTED: highest(scene, scene.patched_model(3, segmented=False), peak_bytes),
        PLACED: highest(scene, scene.patched_model(3, placed=True), peak_bytes),
        UNPATCHED_BATCH: highest(scene, scene.model, peak_bytes, BATCH),
        BATCHED: highest(scene, scene.patched_model(3), peak_bytes, BATCH),
        AUTHORS: max(map(peak_bytes, of_authors)),
    }


def memory_curve(scene: Scene) -> list[tuple[float, float]]:
    """Peak memory in MB beyond the unpatched sampler's, by size of the latent."""
    sizes = [Scene(scene.shape, scene.side_lat * part // 8 * 2) for part in (2, 3, 4)]
    extra = [highest(size, size.patched_model(3), peak_bytes) - highest(size, size.model, peak_bytes) for size in sizes]
    return [(size.side_lat**2, its / MB) for size, its in zip(sizes, extra, strict=True)]


def parts_of(scene: Scene) -> dict[str, float]:
    """Seconds of each part of an evaluation with three references: the mean over a run's evaluations."""
    parts, model = Parts(scene.pack), scene.patched_model(3)
    with parts.watch():
        found = scene.run(model, around=parts.whole)
    evaluations = len(found.predictions)
    return {part: parts.seconds[part] / evaluations for part in PARTS}


def curves(scene: Scene, times: dict[str, Times]) -> dict[str, list[tuple[float, float]]]:
    """How the cost grows with the number of references, the coverage of their masks, the size and the batch."""

    def extra(scene: Scene, coverage: float = 0.5) -> float:
        patched = scene.patched_model(3, coverage)
        return _least_of_two(partial(scene.run, patched)) - _least_of_two(partial(scene.run, scene.model))

    least = {name: _least(its) for name, its in times.items()}
    usual = least["3"] - least[UNPATCHED]
    sizes = [Scene(scene.shape, side) for side in scene.shape.other_sides_lat]
    return {
        "references": [(count, least[str(count)] - least[UNPATCHED]) for count in COUNTS],
        "mask coverage": sorted([(0.5, usual), *((part, extra(scene, part)) for part in (0.125, 0.25, 1.0))]),
        "latent cells": sorted([(scene.side_lat**2, usual), *((size.side_lat**2, extra(size)) for size in sizes)]),
        AGAINST: sorted([(scene.side_lat**2, least[AUTHORS] / least["3"]), *map(_against, sizes)]),
        "batch": [
            (1, least["3"]),
            (2, _least_of_two(partial(scene.run, scene.patched_model(3), 2))),
            (BATCH, least[BATCHED]),
        ],
    }


def _against(scene: Scene) -> tuple[float, float]:
    ours = partial(scene.run, scene.patched_model(3))
    return scene.side_lat**2, _least_of_two(Authors(scene, 3).run) / _least_of_two(ours)


def _least_of_two(run: Callable[[], Evaluations]) -> float:
    """Seconds of an evaluation in the faster of two runs: other work on the machine only adds time."""
    times = Times()
    for _ in range(2):
        times.add(run())
    return _least(times)


def _least(times: Times) -> float:
    return sum(min(seconds) for seconds in times.by_stage.values()) / len(STAGES)


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The power that a cost grows with: the slope of a line through the logarithms; nan if a cost is not positive."""
    x, y = torch.tensor(points, dtype=torch.float64).log().unbind(dim=1)
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def ratios(found: Measured) -> dict[str, float]:
    """The main figures; of the two stages the worse one counts."""
    plain = found.times[UNPATCHED]

    def worse(name: str, over: Times = plain) -> float:
        return max(median(found.times[name].over(over, stage)) for stage in STAGES)

    def gain(name: str) -> float:
        return min(median(found.times[AUTHORS].over(found.times[name], stage)) for stage in STAGES)

    peak, whole = found.peak_bytes, _one(plain)
    references = median(found.parts["reference pass"]) / _one(found.times[UNPATCHED_BATCH])
    assert found.difference is not None
    return {
        **{f"cold_n{count}": worse(str(count)) for count in COUNTS},
        "warm_n3": worse(CACHED),
        "authors_over_ours_n3": gain("3"),
        "authors_over_warm_n3": gain(CACHED),
        "memory_ours_over_authors": (peak["3"] - peak[UNPATCHED]) / (peak[AUTHORS] - peak[UNPATCHED]),
        "segmentation": median(found.parts["segmentation"]) / whole,
        "guidance": median(found.parts["guidance"]) / whole,
        "batch_beside_references": worse(BATCHED, found.times[UNPATCHED_BATCH]) - references,
        **({} if found.host_waits is None else {"host_waits": found.host_waits}),
        "max_error": found.difference.max_error,
        "equal_regions": found.difference.equal_regions,
    }


def _one(times: Times) -> float:
    """Median seconds of an evaluation."""
    return median(seconds for stage in STAGES for seconds in times.by_stage[stage])
