"""How the cost grows with the number of references, the coverage of their masks, the size and the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from .authors import Authors
from .names import AUTHORS, BATCH, BATCHED, COUNTS, UNPATCHED
from .scene import Evaluations, Scene
from .tables import STAGES
from .times import Times

MEMORY, AGAINST = "latent cells (memory)", "latent cells (authors / ours)"
Curve = list[tuple[float, float]]


def curves(scene: Scene, times: Mapping[str, Times]) -> dict[str, Curve]:
    """By what is varied: pairs of its value and the cost. `times` are those of the ways of sampling."""

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
        AGAINST: sorted([(scene.side_lat**2, least[AUTHORS] / least["3"]), *map(against_authors, sizes)]),
        "batch": [
            (1, least["3"]),
            (2, _least_of_two(partial(scene.run, scene.patched_model(3), 2))),
            (BATCH, least[BATCHED]),
        ],
    }


def against_authors(scene: Scene) -> tuple[float, float]:
    """The latent's cells, and the seconds of the authors' way over ours."""
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
