"""The reference cache: keys and values that outlive a run, for they do not depend on the target."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch

from ...attention.blocks import Block
from ...attention.kv import ViewKV

CacheLocation = Literal["main memory", "device"]
MEGABYTE = 2**20
AUTO_MB = -1
"""In place of a size in MB: as much as is free to give (see `cache_budget`)."""
_RUNS_IN_USE = 2
_RUNS_REMEMBERED = 8

GroupKV = Mapping[Block, Sequence[ViewKV]]
"""Keys and values of the views that went through the UNet together, by block."""


def move(group: GroupKV, device: torch.device) -> GroupKV:
    """The same on another device; the very same object if it is there already."""
    if all(view.k.device == device for views in group.values() for view in views):
        return group
    return {block: [view.to(device) for view in views] for block, views in group.items()}


def size_of(group: GroupKV) -> int:
    """Size in bytes."""
    return sum(view.k.nbytes + view.v.nbytes for views in group.values() for view in views)


@dataclass(eq=False)
class _Entry:
    model: weakref.ref[Any]
    group: GroupKV
    nbytes: int
    run: int

    @property
    def location(self) -> torch.device:
        """Where it is."""
        return next(view.k.device for views in self.group.values() for view in views)


class ReferenceCache:
    """Keys and values of all models' references. Those of a model are dropped with the model.

    An entry that this run or the one before used is not dropped for a new one, so that a cache for half of the steps
    saves half of the work, and two samplers of one graph do not evict each other's entries.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._runs = count()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Size in bytes of all entries."""
        with self.locked():
            return self._size()

    def nbytes_on(self, location: torch.device) -> int:
        """Size in bytes of the entries at a location."""
        with self.locked():
            return sum(entry.nbytes for entry in self._entries.values() if entry.location.type == location.type)

    def open(self, max_bytes: int, forget: bool = False) -> int:
        """Begin a run: drop unused entries until `max_bytes` is met. Returns the run's number.

        Args:
            max_bytes: for all entries.
            forget: whether to drop also what none of the last eight runs used, so that a cache whose size nobody chose
                does not grow with every reference that is tried.
        """
        with self.locked():
            run = next(self._runs)
            if forget:
                self._drop(self._unused(run, _RUNS_REMEMBERED), 0)
            self._drop(self._unused(run), max_bytes)
            return run

    def shrink(self, max_bytes: int) -> None:
        """Drop entries, the least recently used first, until `max_bytes` is met."""
        with self.locked():
            self._drop(list(self._entries), max_bytes)

    def clear(self) -> None:
        """Drop all entries."""
        with self.locked():
            self._entries.clear()

    def find(self, key: Hashable, run: int) -> GroupKV | None:
        """The entry of a key, which counts as used by the run; None if there is none."""
        with self.locked():
            entry = self._entries.get(key)
            if entry is None:
                return None
            entry.run = run
            self._entries.move_to_end(key)
            return entry.group

    def add(self, key: Hashable, model: Any, group: GroupKV, location: torch.device, run: int, max_bytes: int) -> bool:
        """Store what a pass of a model computed, at a location, if there is room for it. Returns whether there is."""
        entry = _Entry(weakref.ref(model, self._model_died), group, size_of(group), run)
        with self.locked():
            unused = [other for other in self._unused(run) if other != key]
            others = self._size() - (self._entries[key].nbytes if key in self._entries else 0)
            if others - sum(self._entries[other].nbytes for other in unused) + entry.nbytes > max_bytes:
                return False
            self._entries.pop(key, None)
            self._drop(unused, max_bytes - entry.nbytes)
            entry.group = move(group, location)  # not before it is known to fit, for the copy may take long
            self._entries[key] = entry
            return True

    def to_main_memory(self, model: Any, max_bytes: int) -> None:
        """Move a model's entries off the device, the most recently used first; drop what exceeds `max_bytes`."""
        cpu = torch.device("cpu")
        with self.locked():
            entries = [(key, entry) for key, entry in self._entries.items() if entry.model() is model]
            for key, entry in reversed(entries):
                if entry.location == cpu:
                    continue
                max_bytes -= entry.nbytes
                if max_bytes < 0:
                    del self._entries[key]
                else:
                    entry.group = move(entry.group, cpu)

    def _size(self) -> int:
        return sum(entry.nbytes for entry in self._entries.values())

    def _unused(self, run: int, runs: int = _RUNS_IN_USE) -> list[Hashable]:
        return [key for key, entry in self._entries.items() if run - entry.run >= runs]

    def _drop(self, oldest_first: list[Hashable], max_bytes: int) -> None:
        total = self._size()
        for key in oldest_first:
            if total > max_bytes:
                total -= self._entries.pop(key).nbytes

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; after that, drop entries whose model died meanwhile."""
        with self._lock:
            try:
                yield
            finally:
                self._drop_dead_models()

    def _model_died(self, _: Any) -> None:
        # The garbage collector may call this in a thread that holds the lock; then `locked` drops the entries.
        if self._lock.acquire(blocking=False):
            try:
                self._drop_dead_models()
            finally:
                self._lock.release()

    def _drop_dead_models(self) -> None:
        for key in [key for key, entry in self._entries.items() if entry.model() is None]:
            del self._entries[key]


REFERENCE_CACHE = ReferenceCache()
"""The process's reference cache; empty unless a schedule gives it room."""
