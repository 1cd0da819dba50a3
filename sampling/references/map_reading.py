"""Attention maps of a noised picture: where the unmodified UNet finds the words of the caption."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import torch
from torch import Tensor

from ...attention.attend import Attend
from ...attention.blocks import Block
from ...attention.device import to_device
from ...attention.regions import half_grid
from ...attention.segmentation import MapAverage, Resize, cross_attention_map, power_average, upsample
from ..families.unet import Patch, token_grid, with_attention
from ..run.host_attention import HostAttention
from ..run.torch_compile import without_compile
from .noise import NoiseSource
from .unmodified_unet import Conditioning, LastBlockReached, call_unet, conds_of, new_options, part_at

_NOISE_NAME = "mask from words"

Smooth = Callable[[Tensor, Tensor, Tensor, Attend], Tensor]
"""Called with maps (b, n, t), attn1's queries and keys, and the attention function; see `power_average`."""


@dataclass(frozen=True)
class Reading:
    """What is read of a picture, and how.

    Attributes:
        positions: of the words in the caption's tokens, ascending.
        blocks: whose maps are averaged, in execution order.
        levels: the noise levels, as parts of the model's timesteps: 0 is a clean picture, 1 is noise.
        noises: how many noises there are at each level; they go through the UNet together.
        noise: where the noise comes from. It is the same for every picture, so a batch gives what each picture gives.
        smooth: how maps are smoothed along the picture by its own similarity.
        resize: how maps are brought to the r = 2 grid. A blur would cost edges.
    """

    positions: Sequence[int]
    blocks: Sequence[Block]
    levels: Sequence[float]
    noises: int
    noise: NoiseSource
    smooth: Smooth = power_average
    resize: Resize = upsample


@contextmanager
def loaded(patcher: Any, shape: Sequence[int], conditioning: Conditioning) -> Iterator[Any]:
    """The model of a ModelPatcher (ComfyUI's BaseModel), on its device and with its LoRAs, for latents of a shape."""
    conds = {"positive": comfy.sampler_helpers.convert_cond(conditioning)}
    model, _, additional = comfy.sampler_helpers.prepare_sampling(patcher, shape, conds, {"transformer_options": {}})
    try:
        patcher.pre_run()
        with without_compile(patcher, patcher.model_options):
            yield model
    finally:
        patcher.cleanup()
        comfy.sampler_helpers.cleanup_models(conds, additional)


def read_maps(
    model: Any, latent: Tensor, conditioning: Conditioning, reading: Reading, device: torch.device, options: Any
) -> Iterator[Tensor]:
    """The maps of the words at one noise level after another, each averaged over noises and blocks.

    Args:
        model: ComfyUI's BaseModel, loaded.
        latent: (1, ch, h, w) clean, as the VAE gives it.
        conditioning: the encoded caption.
        reading: what is read.
        device: of the model.
        options: the model options, of which an attention override is used.

    Yields:
        (1, t, H2, W2) float32 in main memory: each word's map over its spatial mean.
    """
    latent = model.process_latent_in(to_device(latent, device))
    conds = conds_of(model, conditioning, latent, seed=0)
    sampling = model.model_sampling
    for level in reading.levels:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigma = float(sampling.percent_to_sigma(1.0 - level))
        part = part_at(conds, sigma)
        reader = _MapReader(reading, half_grid(latent.shape), conds[part]["cross_attn"].shape[1])
        given = new_options(torch.full((1,), sigma, device=device), options)
        noise = torch.cat(
            [reading.noise(f"{_NOISE_NAME}|{number}", sigma, tuple(latent.shape)) for number in range(reading.noises)]
        )
        call_unet(
            model,
            latent.expand(reading.noises, -1, -1, -1),
            noise,
            given["sigmas"],
            [conds[part]["processed"]] * reading.noises,
            with_attention(given, reader.patches()),
        )
        yield _finite(reader.average.averaged().mean(dim=0, keepdim=True).float().cpu())


def _finite(maps: Tensor) -> Tensor:
    if not torch.isfinite(maps).all():
        raise ValueError(
            "model: its attention has values that are not finite (NaN or infinite) for this picture; start ComfyUI with"
            " --force-upcast-attention or --fp32-unet, or check the node that the model comes from"
        )
    return maps


@dataclass(eq=False)
class _MapReader:
    """The attention patches of one UNet call, whose rows are noised copies of one picture."""

    reading: Reading
    size: tuple[int, int]
    length: int
    average: MapAverage = field(init=False)
    _queries_and_keys: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.average = MapAverage(self.size, self.reading.resize)

    def patches(self) -> dict[str, dict[Block, Patch]]:
        """Attention that leaves the output as it is, and adds the maps; behind the last block the call ends."""
        last = self.reading.blocks[-1]
        return {
            "attn1": dict.fromkeys(self.reading.blocks, self._self_attention),
            "attn2": {block: self._cross_attention(block is last) for block in self.reading.blocks},
        }

    def _self_attention(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        self._queries_and_keys = q, k
        return HostAttention(extra_options)(q, k, v)

    def _cross_attention(self, is_last: bool) -> Patch:
        def attn2(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
            attend = HostAttention(extra_options)
            assert self._queries_and_keys is not None
            cross = cross_attention_map(q, k, attend.heads, self.length)[..., list(self.reading.positions)]
            smoothed = self.reading.smooth(cross, *self._queries_and_keys, attend)
            self.average.add_maps(smoothed, token_grid(extra_options))
            self._queries_and_keys = None
            if is_last:
                raise LastBlockReached
            return attend(q, k, v)

        return attn2
