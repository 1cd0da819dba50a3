"""Sampling with a real UNet and the oracle's formulas: the program that whole runs of the product are compared with.

Each image, each view and each prompt has a UNet pass of its own, and reference passes run to the UNet's end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_sampling import V_PREDICTION
from torch import Tensor

from . import attention, images, regions
from .attention import apply_maps, quick_attention_maps
from .regions import BlockInput

Block = tuple[str, int, int]
"""Stage, number, depth."""


@dataclass
class Picture:
    """A view of a concept: its latent (1, 4, h, w) in the UNet's space, mask (H, W), text, noise and weights."""

    latent: Tensor
    mask: Tensor
    text: Tensor
    pooled: Tensor
    noise: Callable[[float], Tensor]
    weights: tuple[float, float]
    resize: str = "nearest"


@dataclass
class Found:
    """The regions of one evaluation, on the r = 2 grid.

    Attributes:
        labels: (H2, W2) tokens, or -1.
        concepts: (H2, W2) concept indices, or -1.
        foreground: (H2, W2) bool.
        margin: (H2, W2) the smaller of two relative differences per pixel: between its two strongest tokens, and
            between the start tokens and the rest.
    """

    labels: Tensor
    concepts: Tensor
    foreground: Tensor
    margin: Tensor | None = None


@dataclass
class PlainProgram:
    """The sampling of one image.

    Attributes:
        model: ComfyUI's BaseModel, loaded.
        concepts: the views of each concept.
        positions: of each concept's phrase, its token positions in the prompt.
        positive, negative: (text, pooled output); at cfg 1 there is no negative.
        starts: positions of the start tokens in the two prompts.
        cfg, suppression, guidance: the settings.
        start, switch, end: the schedule, as noise levels.
        injected: (stage, number) of the injection blocks.
        segmented: (stage, number, depth) of the segmentation blocks; None for all.
        negative_counts: False if the negative prompt is zeroed out.
        picture: (H, W) of the whole latent, if this is a part of it; an input of SDXL.
        reference_level: the noise level at which references are computed for an evaluation.
        uncond: the last evaluation's prediction for the negative.
    """

    model: Any
    concepts: list[list[Picture]]
    positions: list[list[int]]
    positive: tuple[Tensor, Tensor]
    negative: tuple[Tensor, Tensor] | None
    starts: tuple[list[int], list[int]]
    cfg: float
    suppression: float
    start: float
    switch: float
    end: float
    injected: set[tuple[str, int]]
    segmented: set[Block] | None = None
    guidance: bool = True
    negative_counts: bool = True
    picture: tuple[int, int] | None = None
    reference_level: Callable[[float], float] = lambda sigma: sigma
    uncond: Tensor | None = None

    def is_on(self, sigma: float) -> bool:
        """Whether the method acts at a noise level."""
        return self.end <= sigma <= self.start

    def evaluate(
        self, x: Tensor, sigma: float, before: Found | None, steering: Found | None = None, layout: bool = False
    ) -> tuple[Tensor, Found | None]:
        """The guided prediction at a noise level, and the regions.

        Args:
            x: (1, 4, H, W).
            sigma: the noise level.
            before: the regions of the previous evaluation.
            steering: the regions for guidance, instead of those found here.
            layout: whether it is in the layout stage whatever the noise level.
        """
        if not self.is_on(sigma):
            self.uncond, cond = (self.unet(x, sigma, *text)[0] for text in (self.negative, self.positive))
            return self.uncond + self.cfg * (cond - self.uncond), before
        layout = layout or sigma >= self.switch
        level = self.reference_level(sigma)
        references = [[self.reference(view, level, layout) for view in views] for views in self.concepts]

        def injected(key: Block, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], heads: int) -> Tensor:
            concepts = [[at_blocks[key] for at_blocks in views] for views in references]
            if layout or before is None:
                visible = [list(range(len(concepts)))] * len(q)
            else:
                visible = attention.of_region(images.nearest(before.concepts, grid).flatten().tolist())
            return attention.inject(q, k, v, concepts, visible, heads, maps_of=quick_attention_maps)

        cond, of_cond = self.unet(x, sigma, *self.positive, injected, self.picture)
        cond_maps = self.image_maps(of_cond, x, self.positive[0].shape[1])
        if self.negative is None:
            return cond, self.segment(cond_maps, cond_maps, self.starts[0])
        self.uncond, of_uncond = self.unet(x, sigma, *self.negative, None, self.picture)
        uncond_maps = self.image_maps(of_uncond, x, self.negative[0].shape[1])
        background = (uncond_maps, self.starts[1]) if self.negative_counts else (cond_maps, self.starts[0])
        found = self.segment(cond_maps, *background)
        delta = cond - self.uncond
        rate = self.rate(delta, steering or found) if self.guidance else 1.0
        return self.uncond + self.cfg * rate * delta, found

    def unet(
        self,
        x: Tensor,
        sigma: float,
        text: Tensor,
        pooled: Tensor,
        attn1: Callable[..., Tensor] | None = None,
        picture: tuple[int, int] | None = None,
    ) -> tuple[Tensor, dict[Block, BlockInput]]:
        """The denoised prediction, and the attention inputs of each block.

        Args:
            x: (1, 4, H, W).
            sigma: the noise level.
            text, pooled: of the prompt.
            attn1: computes self-attention in the injection blocks.
            picture: (H, W) of the whole latent.
        """
        read: dict[Block, BlockInput] = {}
        own: dict[Block, tuple[Tensor, Tensor]] = {}

        def self_attention(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            key, grid, heads = _key_of(extra), tuple(extra["activations_shape"][2:]), extra["n_heads"]
            own[key] = q[0], k[0]
            if attn1 is not None and key[:2] in self.injected:
                return attn1(key, q[0], k[0], v[0], grid, heads)[None].to(q)
            return apply_maps(quick_attention_maps(q[0], k[0], heads), v[0])[None].to(q)

        def cross_attention(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            key, grid, heads = _key_of(extra), tuple(extra["activations_shape"][2:]), extra["n_heads"]
            read[key] = BlockInput(*own[key], q[0], k[0], grid, heads)
            return apply_maps(quick_attention_maps(q[0], k[0], heads), v[0])[None].to(q)

        blocks = [(stage, number) for stage in ("input", "middle", "output") for number in range(12)]
        replace = {"attn1": dict.fromkeys(blocks, self_attention), "attn2": dict.fromkeys(blocks, cross_attention)}
        sampling, level = self.model.model_sampling, torch.tensor([sigma])
        y = None
        if self.model.adm_channels:
            height, width = (8 * size for size in picture or x.shape[2:])
            sizes = [self.model.embedder(torch.tensor([float(n)])) for n in (height, width, 0, 0, height, width)]
            y = torch.cat([pooled, torch.cat(sizes).flatten()[None]], dim=1)
        out = self.model.diffusion_model(
            x / math.sqrt(sigma**2 + 1), sampling.timestep(level).float(), context=text, y=y,
            transformer_options={"patches_replace": replace},
        )  # fmt: skip
        if isinstance(sampling, V_PREDICTION):
            return x / (sigma**2 + 1) - out * sigma / math.sqrt(sigma**2 + 1), read
        return x - sigma * out, read

    def reference(self, view: Picture, sigma: float, layout: bool) -> dict[Block, attention.View]:
        """Keys, values, mask and weight of a view at each injection block."""
        at_blocks: dict[Block, attention.View] = {}

        def read(key: Block, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], heads: int) -> Tensor:
            resize = {"nearest": images.nearest, "area": images.area}[view.resize]
            at_blocks[key] = attention.View(k, v, resize(view.mask, grid).flatten(), view.weights[not layout])
            return apply_maps(quick_attention_maps(q, k, heads), v)

        self.unet(view.latent + sigma * view.noise(sigma), sigma, view.text, view.pooled, read)
        return at_blocks

    def image_maps(self, blocks: dict[Block, BlockInput], x: Tensor, length: int) -> list[Tensor]:
        """The maps by token of each segmentation block."""
        height, width = x.shape[2:]
        size = (height + 1) // 2, (width + 1) // 2
        return [
            regions.image_maps(block, size, length, quick_attention_maps)
            for key, block in blocks.items()
            if (self.segmented is None or key in self.segmented)
            and 2 ** round(math.log2(height / block.grid[0])) in (2, 4, 8)  # odd sizes are rounded up when halved
        ]

    def segment(self, maps: list[Tensor], background_maps: list[Tensor], starts: list[int]) -> Found:
        """Regions from the positive prompt's maps; the foreground from the maps of a prompt with these start tokens."""
        tokens, background = regions.token_maps(maps), regions.background_maps(background_maps, starts)
        foreground = background[0] <= background[1]
        labels, concepts = regions.segment(tokens, foreground, self.positions, self.suppression, self.suppression < 0.9)
        strengths = regions.strengths(tokens, self.positions, self.suppression)
        margin = torch.minimum(regions.margin_of(strengths, dim=0), regions.margin_of(background, dim=0))
        return Found(labels, concepts, foreground, margin)

    def rate(self, delta: Tensor, found: Found) -> Tensor:
        """The factor on guidance, (H, W); the product may have labels of several prompts."""
        count = int(found.labels.max()) + 1
        return regions.guidance_rate(delta[0], found.labels, found.foreground, count, self.cfg).to(delta)


def _key_of(extra: dict[str, Any]) -> Block:
    stage, number = extra["block"][:2]
    return stage, number, extra["block_index"]
