"""All measurements of a shape. The ways of sampling take turns, so that other work on the machine slows down all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from .exactness import Difference, difference
from .growth import MEMORY, Curve, curves
from .memory import Highest, highest, memory_curve
from .meters import PARTS, Parts, host_waits, peak_bytes
from .names import CACHED, CACHED_ON_DEVICE, ROWS, UNPATCHED
from .sampled import Sample, ways_of
from .scene import Scene
from .times import Times
from .whole_runs import STEPS, whole_runs


@dataclass(frozen=True)
class Plan:
    """What is measured of a shape.

    Attributes:
        ways: of sampling; None for all, but cached on the device only if that is not main memory.
        exact_side_lat: side of the latent on which exactness is checked; 0 for the shape's own, None for no check.
        steps: of whole runs; 0 for none.
        parts: whether to measure the parts of an evaluation.
        growth: whether to measure how cost and memory grow, and the memory of each way.
        memory_in_rounds: whether to measure memory in the same runs as time, which is right for a UNet so large that
            the profiler's own time does not count.
    """

    ways: tuple[str, ...] | None = None
    exact_side_lat: int | None = 0
    steps: int = STEPS
    parts: bool = True
    growth: bool = True
    memory_in_rounds: bool = False


WHOLE = Plan()
QUICK = Plan((UNPATCHED, "3", ROWS, CACHED), exact_side_lat=32, growth=False)
# For a model whose evaluations take most of a minute.
LARGE = Plan((UNPATCHED, "2", "3", ROWS, CACHED), None, steps=0, parts=False, growth=False, memory_in_rounds=True)


@dataclass(eq=False)
class Measured:
    """All figures of one shape.

    Attributes:
        times: by way of sampling.
        whole_runs: seconds of whole runs by name and round, see `whole_runs`.
        peak_bytes: peak memory of an evaluation, by way of sampling.
        parts: seconds of an evaluation with three references, by part and round.
        difference: between the product and the authors' way.
        host_waits: waits for the GPU in an evaluation, beyond those of the unpatched sampler; None without a GPU.
        curves: by what is varied, pairs of its value and the cost: seconds beyond the unpatched sampler's, unless the
            name says something else.
    """

    times: dict[str, Times] = field(default_factory=dict)
    whole_runs: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    parts: dict[str, list[float]] = field(default_factory=dict)
    difference: Difference | None = None
    host_waits: int | None = None
    curves: dict[str, Curve] = field(default_factory=dict)


def measure_shape(
    scene: Scene,
    rounds: int,
    say: Callable[[str], None],
    plan: Plan = WHOLE,
    save: Callable[[Measured], None] = lambda found: None,
) -> Measured:
    """Measure a shape.

    Args:
        scene: of the shape.
        rounds: how many times each way of sampling runs.
        say: called with a text about the next measurement.
        plan: what is measured.
        save: called after each measurement with all figures so far.
    """
    found = Measured()
    if plan.exact_side_lat is not None:
        say("exactness")
        found.difference = difference(Scene(scene.shape, plan.exact_side_lat or scene.side_lat), 3)
        save(found)
    for number in range(rounds):
        _round(found, scene, number, partial(_say_in, say, f"round {number + 1} of {rounds}"), plan, save)
    scene.pack.sampling.references.cache.REFERENCE_CACHE.clear()
    if plan.growth:
        _growth(found, scene, say, save)
    return found


def _say_in(say: Callable[[str], None], title: str, what: str) -> None:
    say(f"{title}: {what}")


def _round(
    found: Measured,
    scene: Scene,
    number: int,
    say: Callable[[str], None],
    plan: Plan,
    save: Callable[[Measured], None],
) -> None:
    for name, make in chosen(scene, plan).items():
        say(name)
        memory = Highest(peak_bytes)
        seconds = make()(number, memory.around if plan.memory_in_rounds else None)
        found.times.setdefault(name, Times()).add(seconds)
        if plan.memory_in_rounds:
            found.peak_bytes[name] = memory.value
        save(found)
    if plan.parts:
        say("parts")
        for part, mean in parts_of(scene).items():
            found.parts.setdefault(part, []).append(mean)
    if plan.steps:
        for name, whole in whole_runs(scene, number, plan.steps, say=say).items():
            found.whole_runs.setdefault(name, []).append(whole)
    save(found)


def chosen(scene: Scene, plan: Plan) -> dict[str, Callable[[], Sample]]:
    """The ways of sampling of a plan."""
    ways = ways_of(scene)
    if plan.ways is not None:
        return {name: ways[name] for name in plan.ways}
    return {name: make for name, make in ways.items() if name != CACHED_ON_DEVICE or scene.device.type != "cpu"}


def _growth(found: Measured, scene: Scene, say: Callable[[str], None], save: Callable[[Measured], None]) -> None:
    say("curves")
    found.curves = curves(scene, found.times)
    save(found)
    ways = chosen(scene, WHOLE)
    for name, make in ways.items():  # after all times, since the profiler slows down what comes after it
        say(f"memory: {name}")
        found.peak_bytes[name] = highest(make(), peak_bytes)
    say("memory: growth")
    found.curves[MEMORY] = memory_curve(scene)
    save(found)
    if torch.cuda.is_available():
        found.host_waits = highest(ways["3"](), host_waits) - highest(ways[UNPATCHED](), host_waits)
        save(found)


def parts_of(scene: Scene) -> dict[str, float]:
    """Seconds of each part of an evaluation with three references: the mean over a run's evaluations."""
    parts, model = Parts(scene.pack), scene.patched_model(3)
    with parts.watch():
        found = scene.run(model, around=parts.whole)
    evaluations = len(found.predictions)
    return {part: parts.seconds[part] / evaluations for part in PARTS}
