"""The method once more, as one plain program written from its description, to hold the product against.

Nothing here is clever and nothing of the pack is used: each image, each reference and each half of guidance has
a UNet pass of its own, references run to the end, masks are minus infinity, every n x n map is made, S S C is a
product of matrices. Numbers of sections are those of METHOD.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.model_sampling import V_PREDICTION
from torch import Tensor
from torch.nn.functional import interpolate

from .plain_maths import area, attention, blur, margin_of, nearest


@dataclass
class View:
    """One picture of a concept: its latent (1, 4, h, w) in the UNet's space, mask (H, W), text, noise and weights."""

    latent: Tensor
    mask: Tensor
    text: Tensor
    pooled: Tensor
    noise: Callable[[float], Tensor]
    weights: tuple[float, float]
    resize: str = "nearest"


@dataclass
class Found:
    """What one evaluation found, on the r = 2 grid: (H2, W2) tokens, concepts, foreground.

    The margin is how clear a pixel's case is: the smaller of the relative distances of its two strongest tokens, and of
    the start tokens and the rest.
    """

    tokens: Tensor
    concepts: Tensor
    foreground: Tensor
    margin: Tensor | None = None


@dataclass
class Maps:
    """Sums over the blocks, of A for the positive prompt and of F."""

    tokens: list[Tensor] = field(default_factory=list)
    background: list[Tensor] = field(default_factory=list)


@dataclass
class Dense:
    """One image's sampling.

    Attributes:
        model: ComfyUI's BaseModel, loaded.
        concepts: the views of each concept.
        positions: where each concept's phrase stands in the prompt.
        positive, negative: (text, pooled output); no negative at cfg 1.
        starts: start tokens of the two prompts.
        cfg, suppression, guidance: the settings.
        start, switch, end: as noise levels.
        injected: (stage, number) of the injected blocks.
        segmented: (stage, number, depth) of the blocks that find the regions; None for all.
        negative_tells: False where the negative is zeroed out.
        picture: (H, W) of the whole latent where this is a part of it, which SDXL is told.
        uncond: the last evaluation's prediction for the negative.
    """

    model: Any
    concepts: list[list[View]]
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
    segmented: set[tuple[str, int, int]] | None = None
    guidance: bool = True
    negative_tells: bool = True
    picture: tuple[int, int] | None = None
    uncond: Tensor | None = None

    def is_on(self, sigma: float) -> bool:
        """Whether the method acts at a noise level."""
        return self.end <= sigma <= self.start

    def evaluate(
        self, x: Tensor, sigma: float, before: Found | None, steering: Found | None = None
    ) -> tuple[Tensor, Found | None]:
        """The guided prediction at a noise level, and the regions.

        Args:
            x: (1, 4, H, W).
            sigma: the noise level.
            before: the regions of the evaluation before.
            steering: regions by which guidance goes instead of those found here.
        """
        if not self.is_on(sigma):
            self.uncond, cond = (self.unet(x, sigma, *text, None) for text in (self.negative, self.positive))
            return self.uncond + self.cfg * (cond - self.uncond), before
        layout = sigma >= self.switch
        kept = [[self.reference(view, sigma, layout) for view in views] for views in self.concepts]

        def looking(key: Any, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], heads: int) -> Tensor:
            own, _ = attention(q, k, v, heads)
            if key[:2] not in self.injected:
                return own
            tokens = [[seen[key] for seen in views] for views in kept]
            if layout or before is None:  # 2; without regions also in stage 2
                return self.blend(q, k, v, heads, [entry for views in tokens for entry in self.weigh(views, len(q))])
            out, concept_of = own.clone(), nearest(before.concepts, *grid).flatten()
            for concept, views in enumerate(tokens):  # 4
                blended = self.blend(q, k, v, heads, self.weigh(views, len(q)))
                out[concept_of == concept] = blended[concept_of == concept]
            return out

        cond, positive = Maps(), self.positive
        attn2 = self.segmenting(x, cond, self.starts[0], True)
        with_references = self.unet(x, sigma, *positive, looking, attn2, self.picture)
        if self.negative is None:
            return with_references, self.segment(cond, cond)
        uncond = Maps()
        attn2 = self.segmenting(x, uncond, self.starts[1], False)
        self.uncond = self.unet(x, sigma, *self.negative, None, attn2, self.picture)
        found = self.segment(cond, uncond if self.negative_tells else cond)
        delta = with_references - self.uncond
        rate = self.rate(delta, steering or found) if self.guidance else 1.0
        return self.uncond + self.cfg * rate * delta, found

    def unet(
        self,
        x: Tensor,
        sigma: float,
        text: Tensor,
        pooled: Tensor,
        attn1: Any,
        attn2: Any = None,
        picture: tuple[int, int] | None = None,
    ) -> Tensor:
        """The denoised prediction; `attn1` takes the place of self-attention, `attn2` looks at (q, k) of both kinds."""
        seen: dict[Any, tuple[Tensor, Tensor]] = {}

        def key_of(extra: dict[str, Any]) -> tuple[Any, ...]:
            return (*extra["block"][:2], extra["block_index"])

        def self_attention(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            key, grid, heads = key_of(extra), tuple(extra["activations_shape"][2:]), extra["n_heads"]
            seen[key] = q[0], k[0]
            out = attn1(key, q[0], k[0], v[0], grid, heads) if attn1 else attention(q[0], k[0], v[0], heads)[0]
            return out[None]

        def cross_attention(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            out, probabilities = attention(q[0], k[0], v[0], extra["n_heads"])
            if attn2:
                own = attention(*seen[key_of(extra)], seen[key_of(extra)][1], extra["n_heads"])[1]
                attn2(key_of(extra), own, probabilities, tuple(extra["activations_shape"][2:]))
            return out[None]

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
            return x / (sigma**2 + 1) - out * sigma / math.sqrt(sigma**2 + 1)
        return x - sigma * out

    def reference(self, view: View, sigma: float, layout: bool) -> dict[Any, tuple[Tensor, Tensor, Tensor]]:
        """1: keys, values and w + log m of a view in each injected block."""
        kept: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

        def keeping(key: Any, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], heads: int) -> Tensor:
            resize = {"nearest": nearest, "area": area}[view.resize]
            kept[key] = k, v, view.weights[not layout] + resize(view.mask, *grid).flatten().double().log()
            return attention(q, k, v, heads)[0]

        self.unet(view.latent + sigma * view.noise(sigma), sigma, view.text, view.pooled, keeping)
        return kept

    @staticmethod
    def weigh(views: list[tuple[Tensor, Tensor, Tensor]], target_tok: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The views of one concept, their weights corrected for sizes and number."""
        correction = math.log(sum(len(bias) for _, _, bias in views) / target_tok)
        return [(k, v, bias - correction) for k, v, bias in views]

    @staticmethod
    def blend(q: Tensor, k: Tensor, v: Tensor, heads: int, others: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """softmax([s Q K^T | s Q K_i^T + b_i | ...]) [V ; V_i ; ...]."""
        bias = torch.cat([torch.zeros(len(k), dtype=torch.double), *(b for _, _, b in others)])
        keys, values = torch.cat([k, *(k_i for k_i, _, _ in others)]), torch.cat([v, *(v_i for _, v_i, _ in others)])
        return attention(q, keys, values, heads, bias)[0]

    def segmenting(self, x: Tensor, maps: Maps, starts: list[int], positive: bool) -> Callable[..., None]:
        """3.1 to 3.4 for one block after the other."""
        height, width = x.shape[2:]
        half = (height + 1) // 2, (width + 1) // 2

        def block(key: Any, own: Tensor, cross: Tensor, grid: tuple[int, int]) -> None:
            if self.segmented is not None and key not in self.segmented:
                return
            if 2 ** round(math.log2(height / grid[0])) not in (2, 4, 8):  # odd sizes are halved and rounded up
                return
            smoothed = ((own @ cross) + 3 * (own @ own @ cross)) / 4
            planes = smoothed.T.reshape(1, -1, *grid)
            larger = interpolate(planes, size=half, mode="bilinear", align_corners=False)[0]
            blurred = blur(larger)
            others = [token for token in range(len(blurred)) if token not in starts]
            pair = torch.stack([blurred[starts].sum(dim=0), blurred[others].sum(dim=0)])
            for wanted, planes in ((positive, blurred), (True, pair)):
                if wanted:
                    target = maps.tokens if planes is blurred else maps.background
                    target.append(planes / (planes.mean(dim=(1, 2), keepdim=True) + 1e-8))

        return block

    def segment(self, cond: Maps, against: Maps) -> Found:
        """Each pixel to its token, and to its concept."""
        tokens = sum(cond.tokens) / len(cond.tokens)
        start, rest = sum(against.background) / len(against.background)
        named = {position for positions in self.positions for position in positions}
        for token in range(len(tokens)):
            tokens[token] *= 1.0 if token in named else self.suppression
        largest, foreground = tokens.argmax(dim=0), ~(start > rest)
        if self.suppression < 0.9:
            largest[~foreground] = -1
        concepts = torch.full_like(largest, -1)
        for concept, positions in enumerate(self.positions):
            for position in positions:
                concepts[largest == position] = concept
        margin = torch.minimum(margin_of(tokens, dim=0), margin_of(torch.stack([start, rest]), dim=0))
        return Found(largest, concepts, foreground, margin)

    def rate(self, delta: Tensor, found: Found) -> Tensor:
        """5: the factor on guidance, (H, W)."""
        norm = delta[0].double().square().sum(dim=0).sqrt()
        tokens, foreground = nearest(found.tokens, *norm.shape), nearest(found.foreground, *norm.shape)
        level = norm[foreground].sum() / (foreground.sum() + 1e-8)
        rate = torch.zeros_like(norm)
        for token in tokens[tokens >= 0].unique():
            rate[tokens == token] = level / (norm[tokens == token].mean() + 1e-8)
        return blur(rate.clamp(0.8, 3.0).clamp(max=15 / self.cfg)).to(delta)
