"""The same picture by another path of computation, compared one evaluation at a time.

Rounding depends on the processor and on the number of rows in a UNet call. Where the scores of a pixel's two strongest
tokens differ by no more than that rounding, either token may get the pixel, and the two runs diverge from there on. So
of two runs that must be equal the first one leads: each evaluation of the other one starts from the leader's latent,
uses the leader's regions, and is compared by itself. Its own regions are also compared with the leader's, except at
near ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from comfy.patcher_extension import WrappersMP
from oracle.regions import margin_of
from torch import Tensor

NEAR_TIE = 2e-5  # relative; float32 rounding changed margins by up to 1.4e-6 in measurements
KEY = "steering"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        x: (b, 4, H, W) the latent that it started from.
        sigma: the noise level.
        denoised: (b, 4, H, W) the prediction.
        regions: the regions that it found, as the product's `Regions`; None where the method was off.
        margin: (b, H2, W2) the smaller of two relative differences per pixel: between its two strongest tokens, and
            between the start tokens and the rest.
        initial: the regions found before it, because a run began in the blend stage.
    """

    x: Tensor
    sigma: float
    denoised: Tensor
    regions: Any = None
    margin: Tensor | None = None
    initial: Any = None

    def of_images(self, images: Sequence[int]) -> Evaluation:
        """The evaluation of these images of the batch only."""
        chosen = list(images)
        given = self.regions
        if given is None:
            return replace(self, x=self.x[chosen], denoised=self.denoised[chosen])
        regions = replace(
            given,
            labels=given.labels[chosen],
            concepts=given.concepts[chosen],
            foreground=given.foreground[chosen],
        )
        return Evaluation(self.x[chosen], self.sigma, self.denoised[chosen], regions, self.margin[chosen])


def lead(pack: ModuleType, model: Any, sample: Callable[[Any], Any]) -> tuple[Any, list[Evaluation]]:
    """Record a run as it is.

    Args:
        pack: the pack.
        model: ComfyUI's ModelPatcher, with the method or without.
        sample: samples with a model.

    Returns:
        What `sample` returned, and the run's evaluations in order.
    """
    return _run(pack, model, sample, None)


def follow(
    pack: ModuleType, model: Any, sample: Callable[[Any], Any], leader: Sequence[Evaluation]
) -> tuple[Any, list[Evaluation]]:
    """Record a run in which each evaluation starts from the leader's latent and uses the leader's regions.

    Args:
        pack, model, sample: as in `lead`.
        leader: the evaluations of a leading run, as many as this run makes.

    Returns:
        What `sample` returned, and the run's evaluations with its own predictions and regions.
    """
    sampled, made = _run(pack, model, sample, list(leader))
    assert len(made) == len(leader)
    return sampled, made


def assert_same(
    labels: Sequence[Evaluation], expected: Sequence[Evaluation], *, rtol: float = 1e-4, atol: float = 1e-3
) -> None:
    """Assert that all predictions are equal within rounding, and all regions except at near ties."""
    assert len(labels) == len(expected) > 0
    for one, other in zip(labels, expected, strict=True):
        torch.testing.assert_close(one.denoised, other.denoised, rtol=rtol, atol=atol)
        assert_same_regions(one, other)


def assert_same_regions(one: Evaluation, other: Evaluation) -> None:
    """Assert that labels, concepts and foreground are equal except at near ties of the second evaluation."""
    assert (one.regions is None) == (other.regions is None)
    if other.regions is not None:
        assert other.margin is not None
        for name in ("labels", "concepts", "foreground"):
            assert_same_labels(getattr(one.regions, name), getattr(other.regions, name), other.margin, name)


def assert_same_labels(labels: Tensor, expected: Tensor, margin: Tensor, name: str = "labels") -> None:
    """Assert that two maps of labels are equal, except at near ties.

    Args:
        labels, expected: (..., H2, W2) labels.
        margin: (..., H2, W2) as in `Evaluation`.
        name: what is compared, for the message.
    """
    assert labels.shape == expected.shape == margin.shape
    wrong = (labels != expected) & (margin > NEAR_TIE)
    assert not wrong.any(), f"{name}: {int(wrong.sum())} pixels differ, with margins up to {float(margin[wrong].max())}"
    clear = (margin > NEAR_TIE).float().mean()
    assert clear > 0.9, f"{name}: {float(1 - clear):.1%} of the pixels are near ties, so the comparison shows little"


def _run(
    pack: ModuleType, model: Any, sample: Callable[[Any], Any], leader: list[Evaluation] | None
) -> tuple[Any, list[Evaluation]]:
    made: list[Evaluation] = []

    def predict(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        led = None if leader is None else leader[len(made)]
        sigma = float(timestep[0])
        if led is not None:
            assert abs(sigma - led.sigma) <= 1e-4 * led.sigma and x.shape == led.x.shape
            x = led.x.to(x)
        given = x.clone()
        with _substitute_regions(pack, [] if led is None else [led.initial, led.regions]) as found:
            denoised = executor(x, timestep, *args, **kwargs)
        assert len(found) <= 2
        regions, margin = found[-1] if found else (None, None)
        initial = found[0][0] if len(found) == 2 else None
        made.append(Evaluation(given, sigma, denoised.clone(), regions, margin, initial))
        return denoised if led is None else led.denoised.to(denoised)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, predict)
    return sample(model), made


@contextmanager
def _substitute_regions(pack: ModuleType, given: Sequence[Any]) -> Iterator[list[tuple[Any, Tensor]]]:
    """Replace the regions that an evaluation finds; the only function here that depends on the product's internals.

    Args:
        pack: the pack.
        given: the regions that the product uses instead, in order, without None; its own after these.

    Yields:
        A list to which the evaluation's own regions and their margins are added.
    """
    module = pack.sampling.regions.segmenter
    maps, segmenter = module.MapsOfCond, module.Segmenter
    background, segment, regions = maps.background, module.segment, segmenter.regions
    instead = [each for each in given if each is not None]
    found: list[tuple[Any, Tensor]] = []
    pairs: list[Tensor] = []
    margins: list[Tensor] = []

    def record_background(self: Any, device: torch.device) -> Tensor:
        pairs.append(background(self, device))
        return pairs[-1]

    def record_segment(tokens: Tensor, foreground: Tensor, concepts: Any, suppression: float, cut: bool) -> Any:
        named = [position for positions in concepts for position in positions]
        strengths = tokens * suppression
        strengths[:, named] = tokens[:, named]
        pair = torch.stack(pairs).mean(dim=0)
        pairs.clear()
        margins.append(torch.minimum(margin_of(strengths, dim=1), margin_of(pair, dim=1)))
        return segment(tokens, foreground, concepts, suppression, cut)

    def substitute(self: Any, *args: Any) -> Any:
        own = regions(self, *args)
        if own is None:
            return instead.pop(0) if instead else None
        # Prompts with areas have grids of their own; their regions are compared in other tests.
        fits = all(margin.shape == own.labels.shape for margin in margins)
        found.append((own, torch.stack(margins).amin(dim=0) if fits else torch.zeros(own.labels.shape)))
        margins.clear()
        return instead.pop(0) if instead else own

    with (
        patch.object(maps, "background", record_background),
        patch.object(module, "segment", record_segment),
        patch.object(segmenter, "regions", substitute),
    ):
        yield found
