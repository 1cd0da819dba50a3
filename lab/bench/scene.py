"""The measured scene: the evaluations of a run, for a shape of the model, and references with a coverage of masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from devtools.incore import load_pack
from devtools.tiny_pack import tiny_model

from .clock import timer

CONCEPTS = ("hat", "scarf", "coat", "shirt", "face")
PROMPT = "a person with a face and a shirt, wearing a hat and a scarf and a coat, in a park"
NEGATIVE = "blurry picture"
CFG = 5.0


@dataclass(frozen=True)
class Shape:
    """A model and its sizes.

    Attributes:
        family: of the small models.
        side_lat: side of the latent, which is square.
        other_sides_lat: sides of further latents, to see how the cost grows; the authors' way must fit in memory.
        dtype: of the weights.
    """

    family: str
    side_lat: int
    other_sides_lat: tuple[int, ...]
    dtype: torch.dtype = torch.float32


SHAPES = {
    "tiny": Shape("sdxl", 32, (16, 24, 48)),
    "narrow": Shape("narrow", 64, (32, 48, 96)),
    "full": Shape("full", 128, (64, 96), torch.float16),
}
# The largest of "full" that two cores run in minutes. Its weights take 5 GB.
FULL_ON_CPU = Shape("full", 64, (), torch.bfloat16)
Around = Callable[[Callable[[], Tensor]], Tensor]
"""Called with an evaluation in place of it, to measure it; returns the prediction."""


@dataclass(eq=False)
class Evaluations:
    """Time and result of the evaluations of a run, without the first one, which prepares everything.

    Attributes:
        seconds: by stage, "layout" and "blend".
        predictions: (b, 4, H, W) the guided predictions, in order.
        latents: (b, 4, H, W) the latents that the predictions are for.
        regions: those found in each evaluation, if the method is used.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"layout": [], "blend": []})
    predictions: list[Tensor] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    regions: list[Any] = field(default_factory=list)

    def add(self, stage: str, seconds: float, latent: Tensor, prediction: Tensor) -> None:
        """Add an evaluation, unless it is the first."""
        if stage != "first":
            self.seconds[stage].append(seconds)
            self.latents.append(latent)
            self.predictions.append(prediction.float().cpu())


class Scene:
    """A model, its references and prompts, and runs of it.

    Args:
        shape: of the model.
        side_lat: side of the latent; None for that of the shape.
    """

    def __init__(self, shape: Shape, side_lat: int | None = None) -> None:
        self.pack = load_pack()
        self.side_lat = side_lat or shape.side_lat
        self.shape = shape
        self.model, self.clip = _models(shape.family, shape.dtype)
        self._regions: list[Any] = []

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""
        device: torch.device = self.model.load_device
        return device

    @cached_property
    def positive(self) -> Any:
        """The encoded prompt."""
        return self.pack.nodes.prompt.MagicFacePrompt.execute(self.clip, PROMPT).result[0]

    @cached_property
    def negative(self) -> Any:
        """The encoded negative prompt."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(NEGATIVE))

    @lru_cache  # noqa: B019 - scenes live as long as the process
    def references(self, count: int, coverage: float = 0.5) -> tuple[Any, ...]:
        """References of the target's size, with masks that cover the given share of them."""
        return tuple(self._reference(number, coverage) for number in range(count))

    def _reference(self, number: int, coverage: float) -> Any:
        concept, side = CONCEPTS[number], self.side_lat
        mask = torch.zeros(1, 8 * side, 8 * side)
        mask[:, : round(8 * side * coverage)] = 1.0
        caption = f"a person with a {concept}"
        latent = torch.randn((1, 4, side, side), generator=torch.Generator().manual_seed(number))
        return self.pack.sampling.method.Reference(
            concept=concept,
            concept_tokens=self.pack.sampling.conditioning.prompt.read_tokens(self.clip, concept).content,
            caption=caption,
            conditioning=self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption)),
            latents=self.model.model.process_latent_out(latent),
            masks=mask,
        )

    def patched_model(
        self, count: int, coverage: float = 0.5, segmented: bool = True, placed: bool = False, schedule: Any = None
    ) -> Any:
        """The model with references.

        Args:
            count: of references.
            coverage: of their masks.
            segmented: without segmentation there are no regions, and both stages do the same.
            placed: whether each reference is exactly in one of `count` columns of the picture.
            schedule: a Schedule; None for `schedule()`.
        """
        sampling, references = self.pack.sampling, self.references(count, coverage)
        source = None if segmented else sampling.regions.source.NoRegions
        if placed:
            references = tuple(self._placed(reference, number, count) for number, reference in enumerate(references))
        method = sampling.patch.bind(self.model, references, schedule or self.schedule(), region_source=source)
        return sampling.patch.patch_model(self.model, method, lambda model: self._watch)

    def schedule(self, **settings: Any) -> Any:
        """The shipped schedule, but references are computed in every evaluation; and with these settings."""
        return self.pack.sampling.method.Schedule(**{"cache_mb": 0, "refresh": 0.0} | settings)

    def _placed(self, reference: Any, number: int, count: int) -> Any:
        column = torch.arange(8 * self.side_lat) * count // (8 * self.side_lat)
        mask = (column == number).float().expand(1, 8 * self.side_lat, -1)
        return replace(reference, region=self.pack.sampling.regions.target.TargetRegion(mask, exact=True))

    def _watch(self, run: Any, *_: Any) -> None:
        self._regions.append(run.latest_regions.on_device)

    @cached_property
    def levels(self) -> dict[str, list[float]]:
        """Noise levels of the evaluations, by stage; "first" is not measured."""
        sampling = self.model.get_model_object("model_sampling")
        percents = {"first": (0.1,), "layout": (0.3,), "blend": (0.5, 0.7)}
        return {stage: [float(sampling.percent_to_sigma(p)) for p in these] for stage, these in percents.items()}

    def start(self, batch: int = 1, seed: int = 0) -> Tensor:
        """(b, 4, H, W) standard normal noise."""
        shape = (batch, 4, self.side_lat, self.side_lat)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def guider(self, model: Any) -> Any:
        """ComfyUI's guider with the prompts."""
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(CFG)
        return guider

    @torch.inference_mode()
    def run(self, model: Any, batch: int = 1, seed: int = 0, around: Around | None = None) -> Evaluations:
        """Sample with Euler's method over the noise levels and time every evaluation.

        Args:
            model: patched or not.
            batch: number of images.
            seed: of the noise.
            around: called with each evaluation but the first.
        """
        found = Evaluations()
        self._regions = []
        stages = [stage for stage, levels in self.levels.items() for _ in levels]

        def sampler(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, **_: Any) -> Tensor:
            ones = x.new_ones([len(x)])
            for step, stage in enumerate(stages):
                evaluate = partial(model_k, x, sigmas[step] * ones, **extra_args)
                before = timer()
                denoised = around(evaluate) if around and stage != "first" else evaluate()
                found.add(stage, timer() - before, x, denoised)
                if callback is not None:
                    callback({"i": step, "denoised": denoised, "x": x})
                x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
            return x

        sigmas = torch.tensor([level for levels in self.levels.values() for level in levels] + [0.0])
        start = self.start(batch, seed)
        self.guider(model).sample(start, torch.zeros_like(start), comfy.samplers.KSAMPLER(sampler), sigmas, seed=seed)
        found.regions, self._regions = self._regions, []
        return found


@lru_cache(maxsize=1)
def _models(family: str, dtype: torch.dtype) -> tuple[Any, Any]:
    return tiny_model.load_unet(family, 0, dtype), tiny_model.load_clip(family, 0)
