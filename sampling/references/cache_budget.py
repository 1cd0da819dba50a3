"""How much memory the reference cache may take: as much as the user says, or as is free to give.

Main memory counts as free if the machine, and the container that this process may be in, can give it without swapping.
"""

from pathlib import Path
from typing import Any

import comfy.model_management
import psutil
import torch
from comfy.cli_args import args

from .cache import AUTO_MB, MEGABYTE, REFERENCE_CACHE

_GIGABYTE = 2**30
_SHARE = 0.5
_DEVICE_SHARE = 0.25  # the rest is for larger pictures and batches, and for other models
# ComfyUI's default for its own cache: it drops outputs of nodes when less than this is available.
_HEADROOM, _MIN_HEADROOM, _MAX_HEADROOM = 0.1, 2 * _GIGABYTE, 10 * _GIGABYTE

# A container's limit, what it uses, and which part of that the system frees by itself: cgroups, version 2 and 1.
_CONTAINER = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


class CacheBudget:
    """The room that the reference cache has in one run.

    Args:
        megabytes: as in `Schedule.cache_mb`; AUTO_MB for a share of the memory that is free or cached in already.
        location: where entries are stored.

    Attributes:
        is_auto: whether it depends on free memory.
        most: bytes of all entries, as it is when the run begins.
    """

    def __init__(self, megabytes: int, location: torch.device) -> None:
        self.is_auto = megabytes == AUTO_MB
        self._location = location
        if not self.is_auto:
            self.most = megabytes * MEGABYTE
        elif getattr(args, "cache_none", False):  # the user wants least memory, and each run loads the model anew
            self.most = 0
        else:
            share = _SHARE if _is_main_memory(location) else _DEVICE_SHARE
            self.most = int(share * max(0, self._limit()))

    def begin(self) -> None:
        """Drop what is cached beyond the budget, if memory is short."""
        if self.is_auto and spare_bytes(self._location) < 0:
            REFERENCE_CACHE.shrink(self.most)

    def now(self) -> int:
        """Bytes that all entries may take now: never more than `most`. If memory is short, entries are dropped."""
        if not self.is_auto:
            return self.most
        limit = max(0, self._limit())
        REFERENCE_CACHE.shrink(limit)
        return min(self.most, limit)

    def _limit(self) -> int:
        return spare_bytes(self._location) + REFERENCE_CACHE.nbytes_on(self._location)


def to_main_memory(model: Any) -> None:
    """Move a model's entries off the device, as far as main memory has room for them; the others are dropped."""
    REFERENCE_CACHE.to_main_memory(model, max(0, spare_bytes(torch.device("cpu"))))


def spare_bytes(location: torch.device) -> int:
    """Free memory beyond what is never touched; negative if memory is short.

    Never touched are, in main memory, what ComfyUI's own cache keeps free (--cache-ram, or a tenth, from 2 to 10 GB),
    and on a device, what ComfyUI reserves for sampling.
    """
    management = comfy.model_management
    if not _is_main_memory(location):
        return int(management.get_free_memory(location) - management.minimum_inference_memory())
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    for limit, available in _containers():
        total, free = min(total, limit), min(free, available)
    return free - _headroom(total)


def _headroom(total: int) -> int:
    usual = min(_MAX_HEADROOM, max(_MIN_HEADROOM, int(_HEADROOM * total)))
    given = getattr(args, "cache_ram", None) or 0  # a number of GB, in newer versions a list of up to two
    active = given[0] if isinstance(given, list) else given
    return max(usual, int(active * _GIGABYTE))


def _containers() -> list[tuple[int, int]]:
    """(limit, available) bytes of each memory limit that this process is under."""
    found = []
    for limit_file, used_file, stat_file, reclaimable in _FILES:
        try:
            limit, used = (int((_CONTAINER / file).read_text()) for file in (limit_file, used_file))
            stat = dict(line.split() for line in (_CONTAINER / stat_file).read_text().splitlines())
        except (OSError, ValueError):  # no such file, or no limit: "max"
            continue
        found.append((limit, limit - used + int(stat.get(reclaimable, 0))))
    return found


def _is_main_memory(location: torch.device) -> bool:
    return location.type in ("cpu", "mps")
