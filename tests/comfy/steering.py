"""The same picture by another path of computation, judged one evaluation at a time.

How numbers are rounded depends on the processor, and on how many rows go through the UNet together. Where a pixel's two
strongest tokens lie within that rounding of each other, either may get the pixel, and from there on two runs part. So
of two runs that must be the same the first one leads: each evaluation of the other one is made from the leader's latent
and with the leader's regions, and compared by itself. Its own regions are compared with the leader's too, but at near
ties.
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

NEAR_TIE = 2e-5  # relative; rounding to float32 was seen to move margins by up to 1.4e-6
KEY = "steering"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        x: (b, 4, H, W) the latent it was made from.
        sigma: its noise level.
        denoised: (b, 4, H, W) its prediction.
        regions: what it found itself, as the product's `Regions`; None where the method was off.
        margin: (b, H2, W2) how clear a pixel's case is: the relative distance of its two strongest tokens, or of the
            start tokens and the rest, whichever is smaller.
    """

    x: Tensor
    sigma: float
    denoised: Tensor
    regions: Any = None
    margin: Tensor | None = None

    def of_images(self, images: Sequence[int]) -> Evaluation:
        """These images of the batch alone."""
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
    """A run as it is.

    Args:
        pack: the pack.
        model: ComfyUI's ModelPatcher, with the method or without.
        sample: samples with the model that it is given.

    Returns:
        What was sampled, and the run's evaluations in order.
    """
    return _run(pack, model, sample, None)


def follow(
    pack: ModuleType, model: Any, sample: Callable[[Any], Any], leader: Sequence[Evaluation]
) -> tuple[Any, list[Evaluation]]:
    """A run of which each evaluation is made from the leader's latent and with the leader's regions.

    Args:
        pack, model, sample: as in `lead`.
        leader: as many evaluations as this run makes.

    Returns:
        What was sampled, and the run's evaluations, with what it predicted and found itself.
    """
    sampled, made = _run(pack, model, sample, list(leader))
    assert len(made) == len(leader)
    return sampled, made


def assert_same(
    ours: Sequence[Evaluation], theirs: Sequence[Evaluation], *, rtol: float = 1e-4, atol: float = 1e-3
) -> None:
    """Every prediction is the same as far as numbers allow, and every pixel's region but at near ties."""
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.denoised, other.denoised, rtol=rtol, atol=atol)
        assert_same_regions(one, other)


def assert_same_regions(one: Evaluation, other: Evaluation) -> None:
    """Labels, concepts and foreground of two evaluations are equal but at near ties of the second."""
    assert (one.regions is None) == (other.regions is None)
    if other.regions is not None:
        assert other.margin is not None
        for name in ("labels", "concepts", "foreground"):
            assert_same_labels(getattr(one.regions, name), getattr(other.regions, name), other.margin, name)


def assert_same_labels(ours: Tensor, theirs: Tensor, margin: Tensor, name: str = "labels") -> None:
    """Two maps of labels are equal wherever the case is clear.

    Args:
        ours, theirs: (..., H2, W2) labels.
        margin: (..., H2, W2) how clear the case is.
        name: of what is compared.
    """
    assert ours.shape == theirs.shape == margin.shape
    wrong = (ours != theirs) & (margin > NEAR_TIE)
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
        with _regions_taken(pack, None if led is None else led.regions) as found:
            denoised = executor(x, timestep, *args, **kwargs)
        assert len(found) <= 1
        regions, margin = found[0] if found else (None, None)
        made.append(Evaluation(given, sigma, denoised.clone(), regions, margin))
        return denoised if led is None else led.denoised.to(denoised)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, predict)
    return sample(model), made


@contextmanager
def _regions_taken(pack: ModuleType, given: Any) -> Iterator[list[tuple[Any, Tensor]]]:
    """What an evaluation finds, replaced by other regions: only this knows where the product's regions come from.

    Args:
        pack: the pack.
        given: regions that the product goes by; its own where there are none.

    Yields:
        A list that the evaluation's own regions, and their margins, are put into.
    """
    module = pack.sampling.regions.segmenter
    maps, segmenter = module.AttentionMaps, module.Segmenter
    background, segment, regions = maps.background.fget, module.segment, segmenter.regions
    found: list[tuple[Any, Tensor]] = []
    pairs: list[Tensor] = []
    margins: list[Tensor] = []

    def seen_background(self: Any) -> Tensor:
        pairs.append(background(self))
        return pairs[-1]

    def seen_segment(tokens: Tensor, foreground: Tensor, concepts: Any, suppression: float, cut: bool) -> Any:
        named = [position for positions in concepts for position in positions]
        strengths = tokens * suppression
        strengths[:, named] = tokens[:, named]
        pair = torch.stack(pairs).mean(dim=0)
        pairs.clear()
        margins.append(torch.minimum(margin_of(strengths, dim=1), margin_of(pair, dim=1)))
        return segment(tokens, foreground, concepts, suppression, cut)

    def taken(self: Any, *args: Any) -> Any:
        own = regions(self, *args)
        if own is None:
            return given
        # Of prompts with areas of their own each has its grid: these are compared otherwise.
        fits = all(margin.shape == own.labels.shape for margin in margins)
        found.append((own, torch.stack(margins).amin(dim=0) if fits else torch.zeros(own.labels.shape)))
        return own if given is None else given

    with (
        patch.object(maps, "background", property(seen_background)),
        patch.object(module, "segment", seen_segment),
        patch.object(segmenter, "regions", taken),
    ):
        yield found
