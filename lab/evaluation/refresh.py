"""`dev.py evaluate --refresh`: at which noise levels references need be computed, and what comes between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from ..figures import write
from ..judge import look
from .combinations import combination
from .evaluate import in_turns, tools
from .measures import measure
from .rows import ROWS
from .tables import Figures, Scores, difference_table, figures_of, main_table

MEASURES = ("passes", "prompt", "fidelity", "leakage", "pattern", "iou_steps")
COMPARED = ("prompt", "fidelity", "leakage", "pattern", "iou_steps")
Axis = Literal["part of sampling", "log sigma", "angle"]


@dataclass(frozen=True)
class Scheme:
    """A way to have references in every evaluation with fewer reference passes.

    Attributes:
        name: in the table.
        parts: into how many the noise levels are divided; 0 for passes at every level.
        axis: on which they are equal; the angle is atan(sigma), which the share of noise in the UNet's input follows.
        between: "middle" uses the pass at a part's middle, "line" interpolates between passes at both its ends.
        every: a pass in every so many evaluations instead of parts; the others use the last one.
        one_noise: whether the references' noise is the same at all levels.
        noise_seed: of the references' noise.
        blend_only: whether the layout stage has passes at every level.
    """

    name: str
    parts: int = 0
    axis: Axis = "part of sampling"
    between: Literal["middle", "line"] = "middle"
    every: int = 0
    one_noise: bool = False
    noise_seed: int = 0
    blend_only: bool = False


BASE = "every level"
SCHEMES = (
    Scheme(BASE),
    Scheme("every level, noise seed 1", noise_seed=1),
    Scheme("every level, one noise", one_noise=True),
    Scheme("6 parts (as shipped)", 6),
    Scheme("6 parts, blend stage only", 6, blend_only=True),
    Scheme("6 parts, one noise, interpolated", 6, between="line", one_noise=True),
    Scheme("10 parts", 10),
    Scheme("6 parts of log sigma", 6, "log sigma"),
    Scheme("7 parts of the angle", 7, "angle"),
    Scheme("every third evaluation", every=3),
)


def main(numbers: range, names: Sequence[str], file: Path | None) -> int:
    """Measure the schemes, all or those of these names, and print the tables."""
    chosen = [scheme for scheme in SCHEMES if not names or scheme.name in (BASE, *names)]
    found = figures_of(in_turns(partial(_work, schemes=chosen), numbers), BASE, COMPARED)
    if file:
        write(file, {"refresh": found})
    print("\n".join(line for lines in tables(found).values() for line in (*lines, "")))
    return 0


def tables(figures: Figures) -> dict[str, list[str]]:
    """Lines of the tables: means, and differences to passes at every level."""
    return {
        "refresh": main_table(figures, None, MEASURES),
        "refresh-differences": difference_table(figures, None, BASE, COMPARED),
    }


def _work(number: int, schemes: Sequence[Scheme]) -> dict[str, Scores]:
    judge, studio = tools()
    wanted, scores = combination(number), {}
    for scheme in schemes:
        with used(scheme, studio.pack, studio.model.get_model_object("model_sampling")) as passes:
            made = studio.make(wanted, ROWS["shipped, refresh 0"])
        scores[scheme.name] = measure(look(judge, made.picture[None]), made, wanted) | {"passes": float(len(passes))}
    return scores


@contextmanager
def used(scheme: Scheme, pack: Any, sampling: Any) -> Iterator[list[float]]:
    """References of one run are computed in the way of a scheme. Yields the levels of its passes so far."""
    module = pack.sampling.references
    kind, noise = module.reference_pass.ReferencePass, module.noise.SeededNoise
    real_kv, real_pass, real_noise = kind.kv_for, kind.through_unet, noise.__call__
    passes: list[float] = []
    visited: list[float] = []

    def kv_for(self: Any, views: Any, evaluation: Any, hooks: Any) -> Any:
        shares = {evaluation.level: 1.0}
        if not (scheme.blend_only and evaluation.stage.value == "layout"):
            shares = _shares(scheme, sampling, evaluation.level, visited)
        found = [(self.kv_at(level, views, evaluation, hooks), share) for level, share in shares.items()]
        return found[0][0] if len(found) == 1 else _mixed(found)

    def through_unet(self: Any, group: Any, level: float, options: Any) -> Any:
        passes.append(level)
        return real_pass(self, group, level, options)

    def seeded(self: Any, name: str, sigma: float, shape: Any) -> Any:
        return real_noise(type(self)(scheme.noise_seed), name, 1.0 if scheme.one_noise else sigma, shape)

    kind.kv_for, kind.through_unet, noise.__call__ = kv_for, through_unet, seeded
    module.cache.REFERENCE_CACHE.clear()  # whose keys do not know the scheme's noise
    try:
        yield passes
    finally:
        kind.kv_for, kind.through_unet, noise.__call__ = real_kv, real_pass, real_noise
        module.cache.REFERENCE_CACHE.clear()


def _shares(scheme: Scheme, sampling: Any, sigma: float, visited: list[float]) -> dict[float, float]:
    """The noise levels of the passes that an evaluation at sigma uses, each with its share.

    Args:
        scheme: the way.
        sampling: the model's.
        sigma: the noise level of the evaluation.
        visited: the levels of the evaluations so far, to which this one is added.
    """
    visited.append(sigma)
    if scheme.every:
        return {visited[(len(visited) - 1) // scheme.every * scheme.every]: 1.0}
    if not scheme.parts:
        return {sigma: 1.0}
    to, back = _AXES[scheme.axis](sampling)
    most, least = to(float(sampling.sigma_max)), to(float(sampling.sigma_min))
    along = min(max((most - to(sigma)) / (most - least), 0.0), 1.0) * scheme.parts
    part = min(int(along), scheme.parts - 1)

    def level(at: float) -> float:
        return back(most - (most - least) * at / scheme.parts)

    if scheme.between == "middle":
        return {level(part + 0.5): 1.0}
    return {level(part): part + 1 - along, level(part + 1): along - part}


def _mixed(found: list[tuple[Any, float]]) -> Any:
    """Keys and values as a weighted sum of those of several passes."""
    first = found[0][0]
    return {
        block: {
            view: replace(
                its,
                k=sum(share * kv[block][view].k for kv, share in found),
                v=sum(share * kv[block][view].v for kv, share in found),
            )
            for view, its in of_views.items()
        }
        for block, of_views in first.items()
    }


def _parts_of_sampling(sampling: Any) -> tuple[Callable[[float], float], Callable[[float], float]]:
    return (
        lambda sigma: float(sampling.timestep(torch.tensor(sigma))),
        lambda timestep: float(sampling.sigma(torch.tensor(timestep))),
    )


_AXES: Mapping[Axis, Callable[[Any], tuple[Callable[[float], float], Callable[[float], float]]]] = {
    "part of sampling": _parts_of_sampling,
    "log sigma": lambda sampling: (math.log, math.exp),
    "angle": lambda sampling: (math.atan, math.tan),
}
