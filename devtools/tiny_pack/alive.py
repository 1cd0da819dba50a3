"""What of the pack is alive in this process: for tests, and for a server under load."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

# Modules of which no object outlives a run.
RUN_STATE = (
    ".sampling.run",
    ".sampling.unet_call",
    ".sampling.reference_pass",
    ".sampling.keeping",
    ".sampling.view",
    ".sampling.roles",
    ".sampling.segmenter",
    ".attention.references",
    ".attention.segmentation",
    ".attention.regions",
)
KEEPERS = (".sampling.recording", ".sampling.gazes", ".attention.looking")


def left_over() -> dict[str, int]:
    """Objects of a run's state that are still alive, by class, but for what the bounded stores keep to be shown."""
    gc.collect()
    is_state = _is_of(RUN_STATE)
    alive = [thing for thing in gc.get_objects() if is_state(thing)]
    kept = _kept() if alive else set()
    return dict(Counter(type(thing).__name__ for thing in alive if id(thing) not in kept))


def _stores() -> list[Any]:
    return [
        getattr(module, name)
        for end, name in ((".sampling.recording", "STORE"), (".sampling.gazes", "GAZES"), (".sampling.kept", "KEPT"))
        for path, module in list(sys.modules.items())
        if path.endswith(end)
    ]


def _kept() -> set[int]:
    """The ids of all that the stores hold."""
    found: set[int] = set()
    ahead, is_ours = _stores(), _is_of((*RUN_STATE, *KEEPERS))
    while ahead:
        thing = ahead.pop()
        if id(thing) not in found and (isinstance(thing, dict | list | tuple) or is_ours(thing)):
            found.add(id(thing))
            ahead += gc.get_referents(thing)
    return found


def _is_of(modules: tuple[str, ...]) -> Callable[[Any], bool]:
    """Whether an object's class is of one of these modules; quick, for it is asked of every object that there is."""
    known: dict[type, bool] = {}

    def is_of(thing: Any) -> bool:
        kind = type(thing)
        if kind not in known:
            known[kind] = str(getattr(kind, "__module__", "")).endswith(modules)
        return known[kind]

    return is_of


def report() -> dict[str, Any]:
    """Figures of this process.

    Returns:
        left_over: see there.
        tensors: how many there are.
        tensor_bytes: the memory behind them, shared memory once.
        kept_bytes: what the pack keeps of past runs, for its preview nodes and for later runs.
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
