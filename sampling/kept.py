"""What is kept of references from run to run: keys and values, which do not depend on the target (METHOD 7.5)."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor

from ..attention.blocks import Block
from ..attention.transfer import sent

Place = Literal["main memory", "device"]
MEGABYTE = 2**20


@dataclass(frozen=True, eq=False)
class BlockTokens:
    """What one block keeps of one view.

    Attributes:
        k, v: (1, m, c) keys and values of the tokens inside the mask.
        grid: (hh, ww) of the block.
    """

    k: Tensor
    v: Tensor
    grid: tuple[int, int]

    def to(self, device: torch.device) -> BlockTokens:
        """The same on another device."""
        return BlockTokens(sent(self.k, device), sent(self.v, device), self.grid)


GroupTokens = Sequence[dict[Block, BlockTokens]]
"""What the injected blocks keep of views that went through the UNet together."""


def moved(group: GroupTokens, device: torch.device) -> GroupTokens:
    """The same on another device; itself where it is there already."""
    if all(tokens.k.device == device for view in group for tokens in view.values()):
        return group
    return [{block: tokens.to(device) for block, tokens in view.items()} for view in group]


def bytes_of(group: GroupTokens) -> int:
    """Bytes that they take."""
    return sum(tokens.k.nbytes + tokens.v.nbytes for view in group for tokens in view.values())


@dataclass(eq=False)
class _Entry:
    model: weakref.ref[Any]
    group: GroupTokens
    nbytes: int
    run: int


_IN_USE_RUNS = 2


class KeptReferences:
    """What is kept of all models' references, by whatever keys it is given; it goes with its model.

    What this run or the one before used is not dropped for something new: so room for half of the steps is worth half,
    and two samplers of one graph do not drive out each other's.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._runs = count()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        with self._at_work():
            return self._bytes()

    def open(self, most_bytes: int) -> int:
        """Begin a run: drop what is more than `most_bytes` and not in use; returns the run's number."""
        with self._at_work():
            run = next(self._runs)
            self._drop(self._unused(run), most_bytes)
            return run

    def clear(self) -> None:
        """Keep nothing."""
        with self._at_work():
            self._entries.clear()

    def find(self, key: Hashable, run: int) -> GroupTokens | None:
        """What is kept under a key, which is as young as the run from now on; None if there is nothing."""
        with self._at_work():
            entry = self._entries.get(key)
            if entry is None:
                return None
            entry.run = run
            self._entries.move_to_end(key)
            return entry.group

    def keep(
        self, key: Hashable, model: Any, group: GroupTokens, place: torch.device, run: int, most_bytes: int
    ) -> bool:
        """Keep what a pass of a model left in some place, if there is room; whether there is."""
        entry = _Entry(weakref.ref(model, self._model_died), group, bytes_of(group), run)
        with self._at_work():
            unused = [other for other in self._unused(run) if other != key]
            others = self._bytes() - (self._entries[key].nbytes if key in self._entries else 0)
            if others - sum(self._entries[other].nbytes for other in unused) + entry.nbytes > most_bytes:
                return False
            self._entries.pop(key, None)
            self._drop(unused, most_bytes - entry.nbytes)
            entry.group = moved(group, place)  # only now: it may be a long way
            self._entries[key] = entry
            return True

    def to_main_memory(self, model: Any) -> None:
        """Leave the device, as a model does."""
        with self._at_work():
            for entry in self._entries.values():
                if entry.model() is model:
                    entry.group = moved(entry.group, torch.device("cpu"))

    def _bytes(self) -> int:
        return sum(entry.nbytes for entry in self._entries.values())

    def _unused(self, run: int) -> list[Hashable]:
        return [key for key, entry in self._entries.items() if run - entry.run >= _IN_USE_RUNS]

    def _drop(self, oldest_first: list[Hashable], most_bytes: int) -> None:
        total = self._bytes()
        for key in oldest_first:
            if total > most_bytes:
                total -= self._entries.pop(key).nbytes

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            finally:
                self._forget_the_dead()

    def _model_died(self, _: Any) -> None:
        # Perhaps in the middle of our own work, in this very thread: that forgets it then.
        if self._lock.acquire(blocking=False):
            try:
                self._forget_the_dead()
            finally:
                self._lock.release()

    def _forget_the_dead(self) -> None:
        for key in [key for key, entry in self._entries.items() if entry.model() is None]:
            del self._entries[key]


KEPT = KeptReferences()
"""Where references outlive a run, if MagicFaceSchedule asks for it."""
