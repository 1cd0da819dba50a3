"""The authors' way: the method computed as in their program, with the same weights, for comparison with the product.

References run through both halves of guidance and to the UNet's end, attention is dense with additive masks, maps are
n x n, and S S is a product of matrices. All this is written independently of the product. The parts in `SHARED` are
not: they call the product or ComfyUI. An error in one of them is on both sides, so a comparison with this module cannot
find it. Recorded runs of the authors' program (`dev.py parity`) and the tests' plain program check them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from .clock import timer
from .scene import CFG, Around, Evaluations, Scene

COND, UNCOND = 0, 1
SHARED = (
    "the small UNet and its weights",
    "noising of references to a noise level, and their noise",
    "up-sampling and normalisation of attention maps",
    "token positions, token suppression, the foreground cut and the arg-max over words",
    "the guidance rate",
    "the choice of blocks",
)


class Authors:
    """The authors' program for one image.

    Args:
        scene: model, prompts and sizes.
        count: number of references.
        coverage: share of a reference that its mask covers.
        blocks: the segmentation blocks; all in their program.
    """

    def __init__(self, scene: Scene, count: int, coverage: float = 0.5, blocks: str = "all") -> None:
        pack = scene.pack
        self._scene, self._attention, self._references = scene, pack.attention, scene.references(count, coverage)
        self._method = pack.sampling.patch.bind(
            scene.model, self._references, pack.sampling.method.Schedule(segmentation_blocks=blocks)
        )
        comfy.model_management.load_models_gpu([scene.model])
        self._model = scene.model.model
        self._device = scene.model.load_device
        self._latents = [self._model.process_latent_in(r.latents).to(self._device) for r in self._references]
        captions = [r.conditioning for r in self._references]
        each = [self._conds(text) for text in [scene.positive, *captions, *[scene.negative] * (1 + count)]]
        self._joined = comfy.samplers.cond_cat(each)
        self.regions: Any = None  # for the blend stage of the next evaluation
        self.margin: Any = None  # (1, H2, W2) of the strongest token over the second, relative to the strongest
        self._stage = "layout"
        self._injected, self._segmented = (
            {block.key for block in blocks}
            for blocks in (self._method.injection_blocks, self._method.segmentation_blocks)
        )
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._maps: dict[str, Any] = {}
        self._blocks = 0
        self._self_maps: Tensor | None = None

    def _conds(self, conditioning: Any) -> dict[str, Any]:
        [[text, options]] = conditioning
        base = [{**options, "cross_attn": text, "model_conds": {}, "uuid": uuid.uuid4()}]
        start = self._scene.start().to(self._device)
        encoded = comfy.samplers.encode_model_conds(
            self._model.extra_conds,
            base,
            start,
            self._device,
            "positive",
            latent_image=start,
            denoise_mask=None,
            seed=0,
        )
        return {name: cond.process_cond(batch_size=1, area=None) for name, cond in encoded[0]["model_conds"].items()}

    @torch.inference_mode()
    def run(self, seed: int = 0, around: Around | None = None, steering: Sequence[Any] | None = None) -> Evaluations:
        """Like `Scene.run`. `steering` are regions for each evaluation, in place of those found here."""
        found = Evaluations()
        levels = [(stage, level) for stage, levels in self._scene.levels.items() for level in levels]
        x = self._scene.start(seed=seed).to(self._device)
        x = self._model.model_sampling.noise_scaling(torch.tensor(levels[0][1]).to(x), x, torch.zeros_like(x))
        following = [level for _, level in levels[1:]] + [0.0]
        for step, ((stage, level), level_after) in enumerate(zip(levels, following, strict=True)):
            given = steering and steering[step]
            before = timer()
            evaluate = partial(self.evaluate, x, level, stage, given)
            denoised = around(evaluate) if around and stage != "first" else evaluate()
            found.add(stage, timer() - before, x, denoised)
            self.regions = given or self.regions
            x = x + (x - denoised) / level * (level_after - level)
        return found

    @torch.inference_mode()
    def evaluate(self, x: Tensor, level: float, stage: str, found: Any = None) -> Tensor:
        """The guided prediction at a noise level; the regions are stored for the next evaluation.

        Args:
            x: (1, 4, H, W).
            level: the noise level.
            stage: "first", "layout" or "blend".
            found: regions for guidance in place of those found here.
        """
        self._stage, self._masks = stage, {}
        self._maps, self._blocks = {"tokens": 0.0, "background": 0.0}, 0
        sigma = torch.full((1,), level, device=self._device)
        noised = []
        for reference, latent in zip(self._references, self._latents, strict=True):
            name = f"{reference.concept}|{reference.caption}|0|0"
            noise = self._method.noise(name, float(sigma), tuple(latent.shape)).to(latent)
            noised.append(self._model.model_sampling.noise_scaling(sigma.view(-1, 1, 1, 1), noise, latent))
        rows = torch.cat([x, *noised] * 2)
        layout = self._scene.pack.sampling.families.unet.layout_of(self._model.diffusion_model)
        replace = {
            name: {block.key: attention for block in layout}
            for name, attention in (("attn1", self._self_attention), ("attn2", self._cross_attention))
        }
        out = self._model.apply_model(
            rows, sigma.expand(len(rows)), **self._joined,
            transformer_options={"cond_or_uncond": [0], "sigmas": sigma, "patches_replace": replace},
        )  # fmt: skip
        cond, uncond = out[:1], out[len(rows) // 2 :][:1]
        self._find_regions()
        rate = self._attention.guidance.guidance_rate(cond - uncond, found or self.regions, CFG)
        return uncond + CFG * rate * (cond - uncond)

    def _self_attention(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        block, heads, grid = _block(extra), extra["n_heads"], tuple(extra["activations_shape"][2:])
        q, k, v = (rearrange(each, "b n (h d) -> b h n d", h=heads) for each in (q, k, v))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        probabilities = scores.softmax(dim=-1)
        if block in self._segmented:
            self._self_maps = probabilities[:: len(q) // 2].float().mean(dim=1)  # (2, n, n) of cond and uncond
        if block not in self._injected:
            return rearrange(probabilities @ v, "b h n d -> b n (h d)")
        references = slice(1, 1 + len(self._references))
        keys, values = (rearrange(each[references], "b h m d -> h (b m) d") for each in (k, v))
        joint = torch.cat((scores[0], q[0] @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5), dim=-1)
        joint = (joint + self._mask(grid).to(q)).softmax(dim=-1)
        target = joint @ torch.cat((v[0], values), dim=1)
        return rearrange(torch.cat((target[None], probabilities[1:] @ v[1:])), "b h n d -> b n (h d)")

    def _mask(self, grid: tuple[int, int]) -> Tensor:
        """(n, (1 + N) n) additive mask, the same for all queries in RSA, by region in RBA. Made once per evaluation."""
        if grid in self._masks:
            return self._masks[grid]
        own = torch.zeros(grid[0] * grid[1])
        blending = self._stage == "blend"
        biases = [
            interpolate(r.masks[:1, None], grid, mode=r.resize).flatten().log()
            + (r.blend_weight if blending else r.weight)
            for r in self._references
        ]
        mask = torch.cat([own, *biases]).to(self._device).expand(len(own), -1).clone()
        if blending and self.regions is not None:
            concepts = interpolate(self.regions.concepts[:, None].float(), grid, mode="nearest").flatten()
            for index in range(len(biases)):
                part = mask[:, (1 + index) * len(own) : (2 + index) * len(own)]
                part[concepts != index] = -torch.inf
        self._masks[grid] = mask
        return mask

    def _cross_attention(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        heads, grid = extra["n_heads"], tuple(extra["activations_shape"][2:])
        q, k, v = (rearrange(each, "b n (h d) -> b h n d", h=heads) for each in (q, k, v))
        probabilities = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
        if self._self_maps is not None:
            cross = probabilities[:: len(q) // 2].float().mean(dim=1)
            self._add_maps(self._self_maps, cross, grid)
            self._self_maps = None
        return rearrange(probabilities @ v, "b h n d -> b n (h d)")

    def _add_maps(self, own: Tensor, cross: Tensor, grid: tuple[int, int]) -> None:
        """Add a block's smoothed maps of cond and uncond; own is (2, n, n), cross (2, n, T)."""
        segmentation = self._attention.segmentation
        smoothed = (own @ cross + 3 * (own @ own) @ cross) / 4
        maps = rearrange(smoothed, "b (y x) t -> b t y x", y=grid[0])
        size = self._attention.regions.half_grid((self._scene.side_lat, self._scene.side_lat))
        maps = segmentation.upsample_and_blur(maps, size)
        pair = torch.stack([maps[UNCOND, 0], maps[UNCOND, 1:].sum(dim=0)])[None]
        for name, found in (("tokens", maps[COND][None]), ("background", pair)):
            self._maps[name] += found / (found.mean(dim=(2, 3), keepdim=True) + segmentation.EPS)
        self._blocks += 1

    def _find_regions(self) -> None:
        background = self._maps["background"] / self._blocks
        tag = self._scene.positive[0][1][self._scene.pack.sampling.conditioning.prompt.TAG]
        phrases = [tag.positions(reference.concept_tokens) for reference in self._references]
        tokens, suppression = self._maps["tokens"] / self._blocks, self._method.suppression
        self.regions = self._attention.segmentation.segment(
            tokens, background[:, 0] <= background[:, 1], phrases, suppression, self._method.cut_to_foreground
        )
        strengths = tokens * suppression
        named = [position for positions in phrases for position in positions]
        strengths[:, named] = tokens[:, named]
        (first, second), (start, rest) = (each.topk(2, dim=1).values.unbind(dim=1) for each in (strengths, background))
        self.margin = torch.minimum((first - second) / first, (start - rest) / start)


def _block(extra: dict[str, Any]) -> tuple[str, int, int]:
    return (*extra["block"][:2], extra["block_index"])
