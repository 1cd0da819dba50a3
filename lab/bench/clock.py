"""The clock of the benchmark: the machine's, or on a busy machine the time of this process."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.benchmark import timer as machine_time

_clock: Callable[[], float] = machine_time


def timer() -> float:
    """Seconds, after the work of the device has ended."""
    return _clock()


def is_process_time() -> bool:
    """Whether `use_process_time` was called."""
    return _clock is time.process_time


def use_process_time() -> None:
    """From now on count only the time that this process gets, on one thread, so that other work does not count."""
    global _clock
    torch.set_num_threads(1)
    _clock = time.process_time
