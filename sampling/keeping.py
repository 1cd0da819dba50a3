"""One run's way to the kept references: the keys under which they are kept, and the room there is.

A key names all that keys and values depend on, and where it cannot, nothing is kept. What is not the same in every part
is computed anew. (Weights that are changed in place, behind ComfyUI's back, nobody sees.)
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from typing import Any

import torch

from .identity import Same, content, identity
from .kept import KEPT, MEGABYTE, GroupTokens, bytes_of, moved
from .method import KEY, Method

log = logging.getLogger(__name__)
_MAIN_MEMORY = torch.device("cpu")
# What a ModelPatcher changes its model by; younger ComfyUIs have more of it than older ones.
_PATCHES = ("patches", "object_patches", "weight_wrapper_patches", "injections", "forced_hooks", "attachments")


class Keeping:
    """What a run keeps, and finds.

    Args:
        method: its schedule says how much and where.
        model: ComfyUI's BaseModel.
        device: where it runs.
    """

    def __init__(self, method: Method, model: Any, device: torch.device) -> None:
        schedule = method.schedule
        self._model, self._device = model, device
        self._most_bytes = schedule.keep_mb * MEGABYTE
        self._place = device if schedule.keep_on == "device" else _MAIN_MEMORY
        self._run = KEPT.open(self._most_bytes)
        self._left_out: dict[Hashable, int] = {}
        self._found = self._asked = 0
        self._levels: tuple[Any, bytes] | None = None
        self._of_run: Hashable = None
        if self._most_bytes:
            types = model.get_dtype(), getattr(model, "manual_cast_dtype", None), device
            patcher = model.current_patcher
            changes = identity([*(getattr(patcher, name, None) for name in _PATCHES), _callbacks(patcher)])
            self._of_run = Same(model), identity(types), changes, method.injection, method.noise

    def key(self, sigma: float, hooks: Any, options: dict[str, Any], views: Iterable[bytes | None]) -> Hashable:
        """The key of views that go through the UNet together; None where nothing is to be kept.

        Args:
            sigma: the noise level.
            hooks: hook group of the cond that will look at the references, at its present keyframe; or None.
            options: the transformer options of their UNet call.
            views: a digest of each view's own inputs; None where they cannot be told.
        """
        if self._of_run is None:
            return None
        digests = tuple(views)
        if None in digests:
            return None
        override = options.get("optimized_attention_override")
        how = None if override is None else (Same(override), self._digest_of(options.get("sample_sigmas")))
        return self._of_run, sigma, _strengths(hooks), how, digests

    def _digest_of(self, sigmas: Any) -> bytes:
        """Of the run's noise levels, which lie on the device: read once."""
        if self._levels is None or self._levels[0] is not sigmas:
            self._levels = sigmas, content(sigmas)
        return self._levels[1]

    def find(self, key: Hashable) -> GroupTokens | None:
        """What was kept under a key, on the device of the run."""
        if key is None:
            return None
        self._asked += 1
        group = KEPT.find(key, self._run)
        if group is None:
            return None
        self._found += 1
        there = moved(group, self._device)
        if self._place == self._device and there is not group:
            KEPT.keep(key, self._model, there, self._place, self._run, self._most_bytes)
        return there

    def keep(self, key: Hashable, group: GroupTokens) -> None:
        """Keep what a pass left, if there is room."""
        if key is None:
            return
        if not KEPT.keep(key, self._model, group, self._place, self._run, self._most_bytes):
            self._left_out[key] = bytes_of(group)

    def make_room(self) -> None:
        """The device has too little memory."""
        KEPT.to_main_memory(self._model)

    def end(self) -> None:
        """Say what came of it, and whether there was too little room."""
        if not self._asked:
            return
        log.info(
            "MagicFace: of %d passes of the references %d were kept from runs before; %d MB are kept now.",
            self._asked,
            self._found,
            -(-KEPT.nbytes // MEGABYTE),
        )
        left_out = sum(self._left_out.values())
        if left_out:
            log.info(
                "MagicFace: %d MB more had no room; a keep_mb of %d in MagicFaceSchedule would hold all.",
                -(-left_out // MEGABYTE),
                -(-(left_out + self._most_bytes) // MEGABYTE),
            )


def _callbacks(patcher: Any) -> list[Any]:
    """What other nodes have called when the model is loaded or a run begins: it may change how it computes."""
    return [
        (kind, key, them) for kind, by_key in patcher.callbacks.items() for key, them in by_key.items() if key != KEY
    ]


def _strengths(hooks: Any) -> Hashable:
    """What a hook group changes the weights by."""
    if hooks is None:
        return None
    return tuple(
        (type(hook), Same(hook.hook_ref), float(hook.strength), getattr(hook, "_strength_model", None))
        for hook in hooks.hooks
    )
