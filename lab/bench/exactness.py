"""How far the product is from the authors' way: the same latents and regions before, the same prediction after."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .authors import Authors
from .scene import Scene

NEAR_TIE = 2e-5  # relative


@dataclass(frozen=True)
class Difference:
    """Over all evaluations.

    Attributes:
        max_error: the largest difference of predictions, as a part of the largest prediction.
        equal_regions: share of pixels with the same concept, of those that are no near ties.
    """

    max_error: float
    equal_regions: float


def difference(scene: Scene, count: int) -> Difference:
    """Compare the two, evaluation by evaluation: each is given what the product had.

    A pixel whose two strongest words lie within the rounding of each other may go to either: it says nothing.
    """
    ours, theirs = scene.run(scene.patched(count)), Authors(scene, count, blocks="auto")
    levels = [(stage, level) for stage, levels in scene.levels.items() for level in levels][1:]
    errors, equal = [], []
    for step, (stage, level) in enumerate(levels):
        # Regions begin with the first evaluation, which is not among the predictions.
        theirs.regions, found = ours.regions[step], ours.regions[step + 1]
        prediction = theirs.evaluate(ours.latents[step], level, stage, found).float().cpu()
        errors.append(float((prediction - ours.predictions[step]).abs().max() / prediction.abs().max()))
        clear = theirs.margin > NEAR_TIE
        equal.append(float((theirs.regions.concepts == found.concepts)[clear].float().mean()))
    return Difference(float(torch.tensor(errors).max()), min(equal))  # a NaN among them is the largest
