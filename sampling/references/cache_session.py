"""One run's use of the reference cache: the keys of its entries and the room there is.

A key covers everything that keys and values depend on; where that cannot be read, nothing is cached. In-place changes
of a model's weights that ComfyUI does not know of are not detected.
"""

import logging
from collections.abc import Hashable, Iterable
from typing import Any

import torch

from ..method import KEY, Method
from ..run.other_patches import replaced_forwards
from .cache import MEGABYTE, REFERENCE_CACHE, GroupKV, move, size_of
from .cache_budget import CacheBudget
from .identity import IdentityKey, content, identity

log = logging.getLogger(__name__)
# By these a ModelPatcher changes its model. Older ComfyUIs lack some of them.
_PATCHES = ("patches", "object_patches", "weight_wrapper_patches", "injections", "forced_hooks", "attachments")


class CacheSession:
    """What a run on a model (ComfyUI's BaseModel) finds in the cache and adds to it."""

    def __init__(self, method: Method, model: Any, device: torch.device) -> None:
        schedule = method.schedule
        self._model, self._device = model, device
        self._location = device if schedule.cache_location == "device" else torch.device("cpu")
        self._budget = CacheBudget(schedule.cache_mb, self._location)
        self._run = REFERENCE_CACHE.open(self._budget.most, forget=self._budget.is_auto)
        self._budget.begin()
        self._left_out: dict[Hashable, int] = {}
        self._found = self._requested = 0
        self._levels: tuple[Any, bytes] | None = None
        self._run_key: Hashable = None
        if self._budget.most:
            types = model.get_dtype(), getattr(model, "manual_cast_dtype", None), device
            patcher = model.current_patcher
            given = [*(getattr(patcher, name, None) for name in _PATCHES), _callbacks(patcher)]
            changes = identity([*given, replaced_forwards(model.diffusion_model)])
            self._run_key = IdentityKey(model), identity(types), changes, method.injection_blocks, method.noise

    def key(self, sigma: float, hooks: Any, options: dict[str, Any], views: Iterable[bytes | None]) -> Hashable:
        """The key of views that go through the UNet together; None if nothing is to be cached.

        Args:
            sigma: the noise level.
            hooks: hook group, at its present keyframe, of the cond that will attend to the references; or None.
            options: the transformer options of their UNet call.
            views: a digest of each view's own inputs; None where they cannot be read.
        """
        if self._run_key is None:
            return None
        digests = tuple(views)
        if None in digests:
            return None
        override = options.get("optimized_attention_override")
        attention = None if override is None else (IdentityKey(override), self._digest_of(options.get("sample_sigmas")))
        return self._run_key, sigma, strengths(hooks), attention, digests

    def _digest_of(self, sigmas: Any) -> bytes:
        """Of the run's noise levels, which are on the device: read once."""
        if self._levels is None or self._levels[0] is not sigmas:
            self._levels = sigmas, content(sigmas)
        return self._levels[1]

    def find(self, key: Hashable) -> GroupKV | None:
        """The cached keys and values, on the run's device."""
        if key is None:
            return None
        self._budget.now()  # which drops entries if memory has become short
        self._requested += 1
        group = REFERENCE_CACHE.find(key, self._run)
        if group is None:
            return None
        self._found += 1
        on_device = move(group, self._device)
        if self._location == self._device and on_device is not group:
            self._add(key, on_device)
        return on_device

    def add(self, key: Hashable, group: GroupKV) -> None:
        """Cache what a pass computed, if there is room."""
        if key is not None and not self._add(key, group):
            self._left_out[key] = size_of(group)

    def _add(self, key: Hashable, group: GroupKV) -> bool:
        return REFERENCE_CACHE.add(key, self._model, group, self._location, self._run, self._budget.now())

    def end(self) -> None:
        """Log what was found and cached, and whether there was too little room."""
        if self._budget.is_auto and not self._budget.most:
            log.info("MagicFace: memory is short, so nothing is cached of the references (keep_mb = -1).")
        if not self._requested:
            return
        log.info(
            "MagicFace: of %d reference passes %d were found in the cache, which now holds %d MB.",
            self._requested,
            self._found,
            _megabytes(REFERENCE_CACHE.nbytes),
        )
        left_out = sum(self._left_out.values())
        if left_out:
            log.info(
                "MagicFace: %d MB more did not fit%s; set keep_mb to %d in MagicFace Schedule to cache everything.",
                _megabytes(left_out),
                f" into the {_megabytes(self._budget.most)} MB that are free to give" if self._budget.is_auto else "",
                _megabytes(left_out + (REFERENCE_CACHE.nbytes if self._budget.is_auto else self._budget.most)),
            )


def _megabytes(nbytes: int) -> int:
    return -(-nbytes // MEGABYTE)


def _callbacks(patcher: Any) -> list[Any]:
    """Callbacks of other nodes, run when the model is loaded or a run begins: they may change what it computes."""
    return [
        (kind, key, found) for kind, by_key in patcher.callbacks.items() for key, found in by_key.items() if key != KEY
    ]


def strengths(hooks: Any) -> Hashable:
    """A key of what a hook group, at its present keyframe, does to the weights."""
    if hooks is None:
        return None
    return tuple(
        (type(hook), IdentityKey(hook.hook_ref), float(hook.strength), getattr(hook, "_strength_model", None))
        for hook in hooks.hooks
    )
