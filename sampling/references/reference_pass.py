"""The reference pass: noised references through the unmodified UNet, to read their keys and values."""

import logging
from collections.abc import Hashable
from itertools import groupby
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...attention.blocks import Block
from ...attention.device import to_device
from ...attention.kv import BlockKV, ConceptKV, ViewKV, pool
from ..errors import SamplingError
from ..families.unet import Patch, token_grid, with_attention
from ..findings import Findings
from ..method import Method, Reference
from ..run.evaluation import Evaluation
from ..run.host_attention import HostAttention
from ..run.other_patches import name_of, replaced_forwards
from .cache import GroupKV
from .cache_budget import to_main_memory
from .cache_session import CacheSession, strengths
from .identity import IdentityKey
from .levels import ReferenceLevels
from .unmodified_unet import LastBlockReached, call_unet, conds_of, new_options
from .view import ReferenceView

log = logging.getLogger(__name__)
# Samplers of a higher order return to a level that they left, with at most one other between (docs/performance.md).
_LEVELS_HELD = 2

KVByView = dict[Block, dict[ReferenceView, ViewKV]]


class ReferencePass:
    """The references of one run on one model (ComfyUI's BaseModel). Some models' conds need the run's seed.

    Source: docs/method.md#reference-pass.
    """

    def __init__(self, method: Method, model: Any, device: torch.device, seed: int, findings: Findings) -> None:
        self._method, self._model, self._device, self._findings = method, model, device, findings
        self._cache = CacheSession(method, model, device)
        self._levels = ReferenceLevels(method.schedule.refresh, model.model_sampling)
        self._held: dict[float, dict[Hashable, KVByView]] = {}  # by level, the latest last
        self._views: list[ReferenceView] = []
        self._max_group = sum(len(reference.latents) for reference in method.references)
        occurrence: dict[tuple[Any, str], int] = {}
        for reference in method.references:
            name = (reference.concept_tokens, reference.caption)
            occurrence[name] = occurrence.get(name, -1) + 1
            if reference.active:
                self._views += self._prepare(reference, occurrence[name], seed)

    def _prepare(self, reference: Reference, occurrence: int, seed: int) -> list[ReferenceView]:
        model = self._model
        latents = model.process_latent_in(to_device(reference.latents, self._device))
        conds = conds_of(model, reference.conditioning, latents[:1], seed)
        name = f"{reference.concept}|{reference.caption}|{occurrence}"
        views = [
            ReferenceView(reference, number, f"{name}|{number}", latents[number : number + 1], conds, self._findings)
            for number in range(len(latents))
        ]
        self._check_tokens(reference, views)
        return views

    def _check_tokens(self, reference: Reference, views: list[ReferenceView]) -> None:
        """Refuse a reference that has no token in any injection block, before the UNet runs."""
        height, width = reference.latents.shape[-2:]
        ratios = sorted({block.ratio for block in self._method.injection_blocks})
        grids = [(-(-height // ratio), -(-width // ratio)) for ratio in ratios]
        if not any(len(view.mask_on(grid).indices) for view in views for grid in grids):
            raise SamplingError(
                f"mask: that of {reference.concept!r} has no pixel on the token grids of the injection blocks"
                f" ({', '.join(f'{ww}x{hh}' for hh, ww in grids)}), so the reference would have no effect; set resize"
                " to area in MagicFace Mask Weight, or mark more of the picture",
                "Reference",
            )

    def run(self, evaluation: Evaluation, hooks: Any) -> dict[Block, BlockKV]:
        """Keys and values, at each injection block, of all references that are on at the evaluation's stage.

        The hook group is that of the cond that will attend to the references, or None.
        """
        patcher = self._model.current_patcher
        if hooks is not None:
            # All of the options: they name the clones on other devices, which are told of a new keyframe only once.
            patcher.prepare_hook_patches_current_keyframe(evaluation.sigma, hooks, evaluation.model_options)
        patcher.apply_hooks(hooks=hooks)

        views = [view for view in self._views if view.reference.weight_at(evaluation.stage) != 0]
        kv = self.kv_for(views, evaluation, hooks)
        concepts: list[list[ReferenceView]] = [[] for _ in self._method.concepts]
        for view in views:
            concepts[self._method.concept_of(view.reference)].append(view)

        def concept_kv(found: dict[ReferenceView, ViewKV], of_concept: list[ReferenceView]) -> ConceptKV | None:
            stage = evaluation.stage
            return pool([(found[v], v.mask_on(found[v].grid), v.reference.weight_at(stage)) for v in of_concept])

        return {block: tuple(concept_kv(found, of_concept) for of_concept in concepts) for block, found in kv.items()}

    def end(self) -> None:
        """End the run."""
        self._cache.end()

    def kv_for(self, views: list[ReferenceView], evaluation: Evaluation, hooks: Any) -> KVByView:
        """The views' keys and values for an evaluation: those at the noise level that the schedule's refresh gives."""
        return self.kv_at(self._levels.level_for(evaluation.level), views, evaluation, hooks)

    def kv_at(self, level: float, views: list[ReferenceView], evaluation: Evaluation, hooks: Any) -> KVByView:
        """The views' keys and values at a noise level; the run holds those of its latest levels."""
        sigma = evaluation.sigma[:1] if level == evaluation.level else torch.full_like(evaluation.sigma[:1], level)
        options = new_options(sigma, evaluation.model_options)
        override = options.get("optimized_attention_override")
        held = self._held.pop(level, {})
        while len(self._held) >= _LEVELS_HELD:
            del self._held[next(iter(self._held))]
        self._held[level] = held
        key = strengths(hooks), override and IdentityKey(override), tuple(views)
        if key not in held:
            kv: KVByView = {block: {} for block in self._method.injection_blocks}
            for group in by_shape(views, level):
                for part in _split(group, self._max_group):
                    for block, of_views in self._run_group(part, level, hooks, options).items():
                        kv[block].update(zip(part, of_views, strict=True))
            held[key] = kv
        return held[key]

    def _run_group(self, group: list[ReferenceView], level: float, hooks: Any, options: dict[str, Any]) -> GroupKV:
        comfy.model_management.throw_exception_if_processing_interrupted()
        key = self._cache.key(level, hooks, options, (view.digest_at(level) for view in group))
        found = self._cache.find(key)
        if found is not None:
            return found
        try:
            kv = self.through_unet(group, level, options)
        except Exception as error:
            if not _is_out_of_memory(error):
                _explain(self._model, error)
                raise
            if len(group) == 1:
                raise
        else:
            self._cache.add(key, kv)
            return kv
        # Outside the handler, so that the failed pass's tensors are gone. From now on the run uses smaller groups.
        self._held.clear()
        to_main_memory(self._model)
        comfy.model_management.soft_empty_cache(True)
        self._max_group = len(group) // 2
        parts = [self._run_group(part, level, hooks, options) for part in _split(group, self._max_group)]
        return {block: [view for part in parts for view in part[block]] for block in self._method.injection_blocks}

    def through_unet(self, group: list[ReferenceView], level: float, options: dict[str, Any]) -> GroupKV:
        """Send views through the UNet together at a noise level, up to the last injection block."""
        latents = torch.cat([view.latent for view in group])
        noise = torch.cat([self._method.noise(view.name, level, tuple(view.latent.shape)) for view in group])
        kv: dict[Block, list[ViewKV]] = {}
        readers = {block: self.reader(block, group, kv) for block in self._method.injection_blocks}
        conds = [view.conds_at(level) for view in group]
        patched = with_attention(options, {"attn1": readers})
        call_unet(self._model, latents, noise, options["sigmas"], conds, patched)
        missing = [str(block) for block in self._method.injection_blocks if block not in kv]
        if missing:
            raise RuntimeError(f"the self-attention of {', '.join(missing)} was not reached")
        return kv

    def reader(self, block: Block, group: list[ReferenceView], kv: dict[Block, list[ViewKV]]) -> Patch:
        """A self-attention that copies the keys and values of the tokens inside the masks."""

        def attn1(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
            grid = token_grid(extra_options)
            inside = [view.mask_on(grid).indices for view in group]
            kv[block] = [ViewKV(k[i : i + 1, tok], v[i : i + 1, tok], grid) for i, tok in enumerate(inside)]
            if block == self._method.injection_blocks[-1]:
                raise LastBlockReached
            return HostAttention(extra_options)(q, k, v)

        return attn1


def by_shape(views: list[ReferenceView], level: float) -> list[list[ReferenceView]]:
    """Group views that go through the UNet together: by shape, never by free memory, or bits would change."""

    def shape(view: ReferenceView) -> tuple[Any, ...]:
        conds = view.conds_at(level)
        return tuple(view.latent.shape), tuple((name, tuple(conds[name].size())) for name in sorted(conds))

    return [list(group) for _, group in groupby(sorted(views, key=shape), key=shape)]


def _split(group: list[ReferenceView], size: int) -> list[list[ReferenceView]]:
    return [group[first : first + size] for first in range(0, len(group), size)]


def _explain(model: Any, error: Exception) -> None:
    """Say that an error is of the reference pass; not of a cancelled run.

    It is logged as text: a log record that held the error would hold the tensors of its frames.

    Raises:
        SamplingError: other nodes have replaced the forward of modules, which may not take the rows of references.
    """
    if isinstance(error, comfy.model_management.InterruptProcessingException):
        return
    message = f"MagicFace: the UNet call for the references failed: {error}"
    names = list(dict.fromkeys(map(name_of, replaced_forwards(model.diffusion_model))))
    if names:
        raise SamplingError(
            f"{message}. Other nodes have replaced the forward of modules in the UNet by {', '.join(names)}. If it"
            " cannot take the rows of the references, it cannot be used with MagicFace: remove its node. If the error"
            " stays, restart ComfyUI, because some nodes change the model for good"
        ) from error
    log.error("%s", message)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether ComfyUI takes an error for lack of memory; newer versions know more kinds of it."""
    management = comfy.model_management
    if hasattr(management, "is_oom"):
        return bool(management.is_oom(error))
    return isinstance(error, management.OOM_EXCEPTION)
