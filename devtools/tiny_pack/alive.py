"""Which of the pack's objects are alive in this process: for tests, and for a server under load."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

# Modules whose objects must not outlive a run.
RUN_STATE = (
    ".sampling.run.run",
    ".sampling.run.evaluation",
    ".sampling.run.unet_call",
    ".sampling.references.reference_pass",
    ".sampling.references.cache_session",
    ".sampling.references.map_reading",
    ".sampling.references.view",
    ".sampling.conditioning.roles",
    ".sampling.regions.segmenter",
    ".sampling.regions.index",
    ".attention.injection",
    ".attention.kv",
    ".attention.masks",
    ".attention.segmentation",
    ".attention.regions",
)
# Modules whose objects the bounded stores hold. All runs share the injection rule of the layout stage.
STORED = (
    ".sampling.latent_store",
    ".sampling.regions.history",
    ".sampling.snapshots",
    ".sampling.references.cache",
    ".attention.snapshot",
)
STORES = (
    (".sampling.regions.history", "REGION_STORE"),
    (".sampling.snapshots", "ATTENTION_STORE"),
    (".sampling.references.cache", "REFERENCE_CACHE"),
)


def left_over() -> dict[str, int]:
    """How many objects of a run's state are still alive, by class, without those that the bounded stores hold."""
    gc.collect()
    is_state = _is_of(RUN_STATE)
    alive = [thing for thing in gc.get_objects() if is_state(thing)]
    held = _held_ids() if alive else set()
    return dict(Counter(type(thing).__name__ for thing in alive if id(thing) not in held))


def _stores() -> list[Any]:
    return [
        getattr(module, name)
        for end, name in STORES
        for path, module in list(sys.modules.items())
        if path.endswith(end)
    ]


def _constants() -> list[Any]:
    return [module.RSA for path, module in list(sys.modules.items()) if path.endswith(".attention.injection")]


def _held_ids() -> set[int]:
    """The ids of all objects that the stores hold, and of the constants of modules."""
    found: set[int] = set()
    ahead, is_ours = [*_stores(), *_constants()], _is_of((*RUN_STATE, *STORED))
    while ahead:
        thing = ahead.pop()
        if id(thing) not in found and (isinstance(thing, dict | list | tuple) or is_ours(thing)):
            found.add(id(thing))
            ahead += gc.get_referents(thing)
    return found


def _is_of(modules: tuple[str, ...]) -> Callable[[Any], bool]:
    """A test whether an object's class is of one of these modules. It must be fast: it runs for every object."""
    known: dict[type, bool] = {}

    def is_of(thing: Any) -> bool:
        kind = type(thing)
        if kind not in known:
            known[kind] = str(getattr(kind, "__module__", "")).endswith(modules)
        return known[kind]

    return is_of


def report() -> dict[str, Any]:
    """Figures about this process.

    Returns:
        left_over: see `left_over`.
        tensors: number of tensors.
        tensor_bytes: their memory; shared memory counts once.
        kept_bytes: memory of the pack's stores, for its preview nodes and for later runs.
    """
    left = left_over()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return {
        "left_over": left,
        "tensors": len(tensors),
        "tensor_bytes": sum(storages.values()),
        "kept_bytes": sum(store.nbytes for store in _stores()),
    }
