"""How much the product differs from the authors' way, given the same latents and regions."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .authors import Authors
from .scene import Scene

NEAR_TIE = 2e-5  # relative


@dataclass(frozen=True)
class Difference:
    """The difference over all evaluations.

    Attributes:
        max_error: the largest difference of predictions, relative to the largest prediction.
        equal_regions: the lowest share of pixels with the same concept, without near ties.
    """

    max_error: float
    equal_regions: float


def difference(scene: Scene, count: int) -> Difference:
    """Compare each evaluation by itself: the authors' way gets the latent and the regions that the product had.

    A pixel is a near tie if its two strongest tokens differ by no more than rounding errors. Either may win there, so
    near ties are not compared.
    """
    ours, theirs = scene.run(scene.patched_model(count)), Authors(scene, count, blocks="auto")
    levels = [(stage, level) for stage, levels in scene.levels.items() for level in levels][1:]
    errors, equal = [], []
    for step, (stage, level) in enumerate(levels):
        # The first evaluation has regions, but its prediction is not recorded.
        theirs.regions, found = ours.regions[step], ours.regions[step + 1]
        prediction = theirs.evaluate(ours.latents[step], level, stage, found).float().cpu()
        errors.append(float((prediction - ours.predictions[step]).abs().max() / prediction.abs().max()))
        clear = theirs.margin > NEAR_TIE
        equal.append(float((theirs.regions.concepts == found.concepts)[clear].float().mean()))
    # torch's max is NaN if a value is, unlike the built-in.
    return Difference(float(torch.tensor(errors).max()), min(equal))
