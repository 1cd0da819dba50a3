"""Parity with the authors: recorded runs of their program, repeated with the product's own wrappers.

A file has a small UNet (diffusers key names under ``unet.``), encodings, token positions, noises and everything that
the authors' program computed from them. Noise, encodings and positions come from the file, and each step starts with
the latent and the masks of the recorded step before it, so that steps are compared one by one. Sampling, stages,
references, segmentation and guidance are the pack's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .recorded_run import RecordedNoise, references_of, schedule_of, unet_model

MAX_LATENT_ERROR = 1e-3
NEAR_TIE = 1e-3  # relative
MAX_NEAR_TIES = 0.01  # share of pixels; rounding alone changes fewer


@dataclass(frozen=True)
class Step:
    """How one step compares.

    Attributes:
        latent_error: largest absolute difference of the latents after it, as diffusers scales them.
        equal_masks: share of pixels with the same token, after the foreground cut, or at a near tie.
        equal_foreground: share of pixels with the same foreground, or at a near tie.
        near_ties: margins of the pixels that differ and are near ties, each at most `NEAR_TIE`.
        pixels: number of pixels.
    """

    latent_error: float
    equal_masks: float
    equal_foreground: float
    near_ties: tuple[float, ...]
    pixels: int

    @property
    def agrees(self) -> bool:
        """Whether the step repeats the authors'."""
        equal = self.equal_masks == self.equal_foreground == 1.0
        few = len(self.near_ties) <= MAX_NEAR_TIES * self.pixels
        return self.latent_error <= MAX_LATENT_ERROR and equal and few


class RecordedRegions:
    """A region source that lets the pack find regions, but returns the recorded ones.

    So the regions that a step finds do not affect later steps.

    Args:
        pack: the pack.
        tensors: the file's.
        positions: for each concept, the token positions of its phrase.

    Attributes:
        found: for each step so far the pack's own regions, and two margins (1, H2, W2): the relative differences
            between a pixel's two strongest tokens, and between the start token and the rest.
    """

    def __init__(self, pack: Any, tensors: dict[str, Tensor], positions: list[tuple[int, ...]]) -> None:
        self._pack, self._tensors, self._positions = pack, tensors, positions
        self.found: list[tuple[Any, Tensor, Tensor]] = []

    def __call__(self, method: Any, shape: Sequence[int]) -> _Finder:
        """Begin an evaluation."""
        return _Finder(self, method, self._pack.sampling.regions.segmenter.Segmenter(method, shape))

    def take(self, own: Any, margin: Tensor, margin_foreground: Tensor) -> Any:
        """Store what a step found; returns the recorded regions of this step."""
        step = len(self.found)
        self.found.append((own, margin.cpu(), margin_foreground.cpu()))
        masks, foreground = self._tensors["ca_masks"][step], self._tensors["fore_masks"][step][:, 0].bool()
        # -1 for no token, as in the pack.
        labels = torch.where(masks.any(dim=1), masks.argmax(dim=1), -1)
        concepts = torch.full_like(labels, -1)
        for concept, positions in enumerate(self._positions):
            concepts[torch.isin(labels, torch.tensor(positions))] = concept
        given = (each.to(own.labels.device) for each in (labels, concepts, foreground))
        return self._pack.attention.regions.Regions(*given, label_count=masks.shape[1])


class _Finder:
    """Finds regions with the pack's own finder; see `RecordedRegions`."""

    def __init__(self, source: RecordedRegions, method: Any, own: Any) -> None:
        self._source, self._method, self._own = source, method, own
        self.blocks, self.places = own.blocks, own.places
        self._maps: dict[str, Any] = {}

    def new_maps(self, row: Any, size_lat: Sequence[int], images: Sequence[int]) -> Any:
        """The own finder's maps; there is one cond of each role."""
        self._maps[row.role] = self._own.new_maps(row, size_lat, images)
        return self._maps[row.role]

    def regions(self, conds: Any, device: torch.device) -> Any:
        """The recorded regions."""
        tokens = self._maps["positive"].tokens
        strengths = tokens * self._method.suppression
        named = [at for concept in self._method.concepts for at in concept.concept_tokens]
        strengths[:, named] = tokens[:, named]
        background = self._maps["negative"].background
        return self._source.take(self._own.regions(conds, device), _margin(strengths), _margin(background))


def _margin(strengths: Tensor) -> Tensor:
    strongest, second = strengths.topk(2, dim=1).values.unbind(dim=1)
    return (strongest - second) / strongest


def main(files: list[str]) -> int:
    """Print each file's comparison; returns 1 if any run differs."""
    differs = False
    for file in files:
        try:
            steps = list(compare(Path(file)))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            print(f"dev.py parity: {file} is not a recorded run: {error}", file=sys.stderr)
            differs = True
            continue
        print(f"{Path(file).name}\n  step  largest latent error  equal mask pixels  equal foreground  near ties")
        for number, step in enumerate(steps):
            ties = ", ".join(f"{margin:.1e}" for margin in sorted(step.near_ties))
            print(
                f"  {number:4d}  {step.latent_error:20.2e}  {step.equal_masks:17.4%}  {step.equal_foreground:16.4%}"
                f"  {len(step.near_ties):9d}{f' (margins {ties})' if ties else ''}"
                f"{'' if step.agrees else '  <- differs'}"
            )
            differs |= not step.agrees
    print("not all runs agree" if differs else "the runs agree")
    return int(differs)


def compare(file: Path) -> Iterator[Step]:
    """Repeat a recorded run and compare it step by step.

    Each step starts with the recorded latent and masks of the step before.
    """
    import comfy.samplers

    from devtools.incore import load_pack

    pack = load_pack()
    with safe_open(file, "pt") as recorded:
        tensors, meta = {name: recorded.get_tensor(name) for name in recorded.keys()}, recorded.metadata()  # noqa: SIM118
    model = unet_model(tensors, json.loads(meta["unet_config"]))
    sigmas = model.model.model_sampling.sigmas[tensors["timesteps"]].float()
    references = references_of(pack, tensors, meta, model)
    regions = RecordedRegions(pack, tensors, [reference.concept_tokens for reference in references])
    method = pack.sampling.patch.bind(
        model,
        references,
        schedule_of(pack, model, tensors, meta),
        RecordedNoise(tensors["noises"], sigmas),
        region_source=regions,
    )
    starts = [tensors["z_T"], *tensors["latents"][:-1]]
    latents: list[Tensor] = []

    def each_step_by_itself(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        for start, sigma, following in zip(starts, sigmas[:-1], sigmas[1:], strict=True):
            x = (start * torch.sqrt(1 + sigma.cpu() ** 2)).to(x)
            denoised = model_k(x, sigma * x.new_ones(len(x)), **extra_args)
            x = denoised + (x - denoised) * following / sigma
            latents.append((x / torch.sqrt(1 + following**2)).cpu())
        return x

    prompt = pack.sampling.conditioning.prompt
    guider = comfy.samplers.CFGGuider(pack.sampling.patch.patch_model(model, method))
    tag = prompt.PromptTokens("", (None, *range(1, tensors["cond"].shape[1])), (0,))
    guider.set_conds([[tensors["cond"][:1], {prompt.TAG: tag}]], [[tensors["uncond"], {}]])
    guider.set_cfg(float(meta["guidance"]))
    nothing = torch.zeros_like(tensors["z_T"])
    # The authors' last step repeats its own noise level.
    steps = torch.cat((sigmas, sigmas[-1:]))
    guider.sample(nothing, nothing, comfy.samplers.KSAMPLER(each_step_by_itself), steps, seed=0)

    for number, (latent, (own, *margins)) in enumerate(zip(latents, regions.found, strict=True)):
        masks = tensors["ca_masks"][number]
        ours = torch.nn.functional.one_hot(own.labels.cpu() + 1, masks.shape[1] + 1)[..., 1:].movedim(-1, 1)
        same = (ours == masks).all(dim=1)
        same_foreground = own.foreground.cpu() == tensors["fore_masks"][number][:, 0].bool()
        near_foreground = margins[1] <= NEAR_TIE
        near = (margins[0] <= NEAR_TIE) | near_foreground  # the masks are cut to the foreground
        excused = (~same & near) | (~same_foreground & near_foreground)
        yield Step(
            latent_error=float((latent - tensors["latents"][number]).abs().max()),
            equal_masks=float((same | near).float().mean()),
            equal_foreground=float((same_foreground | near_foreground).float().mean()),
            near_ties=tuple(torch.minimum(*margins)[excused].tolist()),
            pixels=near.numel(),
        )
