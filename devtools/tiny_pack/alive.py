"""What of the pack is alive in this process: for tests, and for a server under load."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from typing import Any

import torch

# Modules of which no object outlives a run.
RUN_STATE = (
    ".sampling.run",
    ".sampling.unet_call",
    ".sampling.reference_pass",
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
    kept = _kept()
    alive = (thing for thing in gc.get_objects() if _is_of(thing, RUN_STATE) and id(thing) not in kept)
    return dict(Counter(type(thing).__name__ for thing in alive))


def _stores() -> list[Any]:
    return [
        getattr(module, name)
        for end, name in ((".sampling.recording", "STORE"), (".sampling.gazes", "GAZES"))
        for path, module in list(sys.modules.items())
        if path.endswith(end)
    ]


def _kept() -> set[int]:
    """The ids of all that the stores hold."""
    found: set[int] = set()
    ahead = _stores()
    while ahead:
        thing = ahead.pop()
        if id(thing) not in found and (isinstance(thing, dict | list | tuple) or _is_of(thing, (*RUN_STATE, *KEEPERS))):
            found.add(id(thing))
            ahead += gc.get_referents(thing)
    return found


def _is_of(thing: Any, modules: tuple[str, ...]) -> bool:
    return str(getattr(type(thing), "__module__", "")).endswith(modules)


def report() -> dict[str, Any]:
    """Figures of this process.

    Returns:
        left_over: see there.
        tensors: how many there are.
        tensor_bytes: the memory behind them, shared memory once.
        kept_bytes: what the pack keeps of past runs for its preview nodes.
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
