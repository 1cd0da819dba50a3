"""The reference path: noised references through the unmodified UNet, keeping K and V (METHOD 1)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ..attention.blocks import Block
from ..attention.references import ConceptTokens, pool
from ..attention.schedule import Stage
from ..attention.transfer import sent
from .attention_call import HostAttend
from .keeping import Keeping
from .kept import BlockTokens, GroupTokens
from .method import Method, Reference
from .view import View

KeptKeys = dict[Block, list[ConceptTokens | None]]
"""For each injected block one entry a concept."""


class _LastBlockReached(Exception):
    """Ends a reference pass: what follows the last injected self-attention is never read (identity 3 of METHOD 7)."""


@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """Where in sampling an evaluation stands.

    Attributes:
        stage: the method's stage there.
        sigma: (b,) the noise level as the sampler gave it.
        level: its first value.
        model_options: those of the evaluation, of which references inherit very few.
    """

    stage: Stage
    sigma: Tensor
    level: float
    model_options: dict[str, Any]


class ReferencePass:
    """The references of one run on one model.

    Args:
        method: the method; references that are off are left out.
        model: ComfyUI's BaseModel.
        device: where it runs.
        seed: the run's seed, which some families' conds want.
    """

    def __init__(self, method: Method, model: Any, device: torch.device, seed: int) -> None:
        self._method, self._model, self._device = method, model, device
        self._keeping = Keeping(method, model, device)
        self._views: list[View] = []
        self._most_together = sum(len(reference.latents) for reference in method.references)
        occurrence: dict[tuple[Any, str], int] = {}
        for reference in method.references:
            same = (reference.concept_tokens, reference.caption)
            occurrence[same] = occurrence.get(same, -1) + 1
            if reference.active:
                self._views += self._prepare(reference, occurrence[same], seed)

    def _prepare(self, reference: Reference, occurrence: int, seed: int) -> list[View]:
        model = self._model
        latents = model.process_latent_in(sent(reference.latents, self._device))
        base = [
            {**options, "cross_attn": text, "model_conds": {}, "uuid": uuid.uuid4()}
            for text, options in reference.conditioning
        ]
        comfy.samplers.calculate_start_end_timesteps(model, base)
        one = latents[:1]
        conds = comfy.samplers.encode_model_conds(
            model.extra_conds, base, one, self._device, "positive", latent_image=one, denoise_mask=None, seed=seed
        )
        for cond in conds:
            cond["processed"] = {
                name: value.process_cond(batch_size=1, area=None) for name, value in cond["model_conds"].items()
            }
        name = f"{reference.concept}|{reference.caption}|{occurrence}"
        return [
            View(reference, number, f"{name}|{number}", latents[number : number + 1], conds)
            for number in range(len(latents))
        ]

    def run(self, at: NoiseLevel, hooks: Any) -> KeptKeys:
        """Keys and values of all references that are on at a noise level's stage.

        Args:
            at: the noise level.
            hooks: hook group of the cond that will look at the references, or None.

        Returns:
            For each injected block one entry a concept.
        """
        patcher = self._model.current_patcher
        if hooks is not None:
            # All of the options: they name the clones of other devices, which are told of a new keyframe only once.
            patcher.prepare_hook_patches_current_keyframe(at.sigma, hooks, at.model_options)
        patcher.apply_hooks(hooks=hooks)

        views = [view for view in self._views if view.reference.weight_at(at.stage) != 0]
        left: dict[View, dict[Block, BlockTokens]] = {}
        for group in _groups(views, at.level):
            for part in _parts(group, self._most_together):
                left.update(zip(part, self._run_group(part, at, hooks), strict=True))
        of_concept: list[list[View]] = [[] for _ in self._method.concepts]
        for view in views:
            of_concept[self._method.concept_of(view.reference)].append(view)
        return {
            block: [pool([view.concept_tokens(left[view][block], at.stage) for view in same]) for same in of_concept]
            for block in self._method.injection
        }

    def end(self) -> None:
        """The run is over."""
        self._keeping.end()

    def _run_group(self, group: list[View], at: NoiseLevel, hooks: Any) -> GroupTokens:
        comfy.model_management.throw_exception_if_processing_interrupted()
        options = self._options(at)
        key = self._keeping.key(at.level, hooks, options, (view.digest_at(at.level) for view in group))
        found = self._keeping.find(key)
        if found is not None:
            return found
        try:
            left = self._through_unet(group, at, options)
        except Exception as error:
            if len(group) == 1 or not _is_out_of_memory(error):
                raise
        else:
            self._keeping.keep(key, left)
            return left
        # Only now, with the failed pass's tensors gone, the same in halves; so for the rest of the run.
        self._keeping.make_room()
        comfy.model_management.soft_empty_cache(True)
        self._most_together = len(group) // 2
        return [tokens for part in _parts(group, self._most_together) for tokens in self._run_group(part, at, hooks)]

    def _options(self, at: NoiseLevel) -> dict[str, Any]:
        """Transformer options made afresh: those meant for the target (patches, caches, wrappers) are not for the
        references."""
        options: dict[str, Any] = {"cond_or_uncond": [0], "uuids": [uuid.uuid4()], "sigmas": at.sigma[:1]}
        inherited = ("sample_sigmas", "optimized_attention_override")
        given = at.model_options.get("transformer_options", {})
        return options | {name: given[name] for name in inherited if name in given}

    def _through_unet(self, group: list[View], at: NoiseLevel, options: dict[str, Any]) -> GroupTokens:
        model = self._model
        latents = torch.cat([view.latent for view in group])
        noise = torch.cat([self._method.noise(view.name, at.level, tuple(view.latent.shape)) for view in group])
        sigmas = at.sigma[:1].expand(len(group))
        x = model.model_sampling.noise_scaling(
            sigmas.view(-1, 1, 1, 1), sent(noise, latents.device, latents.dtype), latents
        )
        conds = comfy.samplers.cond_cat([view.conds_at(at.level) for view in group])
        left: list[dict[Block, BlockTokens]] = [{} for _ in group]
        with suppress(_LastBlockReached):
            patches = {"attn1": self._catchers(group, left)}
            model.apply_model(x, sigmas, **conds, transformer_options={**options, "patches_replace": patches})
        return left

    def _catchers(
        self, group: list[View], left: list[dict[Block, BlockTokens]]
    ) -> dict[tuple[str, int, int], Callable[..., Tensor]]:
        """For each injected block an attn1 that keeps K and V of the tokens inside the masks."""
        last = self._method.injection[-1]

        def catcher(block: Block) -> Callable[..., Tensor]:
            def attn1(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
                grid = (extra_options["activations_shape"][2], extra_options["activations_shape"][3])
                for row, (view, tokens) in enumerate(zip(group, left, strict=True)):
                    kept, _ = view.inside_mask(grid, k.device)
                    tokens[block] = BlockTokens(k[row : row + 1, kept], v[row : row + 1, kept], grid)
                if block == last:
                    raise _LastBlockReached
                return HostAttend(extra_options)(q, k, v)

            return attn1

        return {block.key: catcher(block) for block in self._method.injection}


def _groups(views: list[View], level: float) -> list[list[View]]:
    """Views that go through the UNet together: by shape, never by free memory, or bits would change."""

    def shape(view: View) -> tuple[Any, ...]:
        conds = view.conds_at(level)
        return tuple(view.latent.shape), tuple((name, tuple(conds[name].size())) for name in sorted(conds))

    return [list(group) for _, group in groupby(sorted(views, key=shape), key=shape)]


def _parts(group: list[View], most: int) -> list[list[View]]:
    return [group[first : first + most] for first in range(0, len(group), most)]


def _is_out_of_memory(error: Exception) -> bool:
    """What ComfyUI takes for lack of memory; newer ones know more kinds of it."""
    management = comfy.model_management
    if hasattr(management, "is_oom"):
        return bool(management.is_oom(error))
    return isinstance(error, management.OOM_EXCEPTION)
