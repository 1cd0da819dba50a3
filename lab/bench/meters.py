"""What one evaluation takes: the parts of its time, and its memory at the most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import timer

# What the profiler calls them. A copy to the host or from it waits by the first.
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
PARTS = ("reference pass", "injection", "segmentation", "guidance", "UNet")


class Parts:
    """Seconds of each part while it is looked at; "UNet" is what is left, the target's own pass.

    Of the injection blocks' attention only what it takes beyond the target's own counts as injection.
    """

    def __init__(self, pack: ModuleType) -> None:
        self._pack = pack
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._beside = 0.0
        self._inside = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Time what the pack does in here."""
        sampling, attention = self._pack.sampling, self._pack.attention
        call, regions = sampling.run.unet_call, sampling.regions
        with ExitStack() as stack:
            for owner, name, part in (
                (sampling.references.reference_pass.ReferencePass, "run", "reference pass"),
                (call, "cross_attention_map", "segmentation"),
                (attention.segmentation.AttentionMaps, "add", "segmentation"),
                (regions.segmenter.Segmenter, "regions", "segmentation"),
                (regions.index.RegionIndex, "read_with", "segmentation"),
                (sampling.run.run.Run, "_post_cfg", "guidance"),
            ):
                stack.enter_context(patch.object(owner, name, self._timed(getattr(owner, name), part)))
            stack.enter_context(patch.object(call.UNetCall, "_inject", self._injection(call.UNetCall._inject)))
            yield

    def whole(self, work: Callable[[], Any]) -> Any:
        """Do all of the work, and call UNet what of it is nothing else."""
        self._beside, before, known = 0.0, timer(), sum(self.seconds.values())
        self._inside = True
        result = work()
        self._inside = False
        whole = timer() - before - self._beside
        self.seconds["UNet"] += whole - (sum(self.seconds.values()) - known)
        return result

    def _timed(self, work: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self._inside:
                return work(*args, **kwargs)
            before = timer()
            result = work(*args, **kwargs)
            self.seconds[part] += timer() - before
            return result

        return timed

    def _injection(self, inject: Callable[..., Any]) -> Callable[..., Any]:
        def timed(call: Any, block: Any, grid: Any, row: Any, attend: Any, qkv: Any, own: Any) -> Any:
            if not self._inside:
                return inject(call, block, grid, row, attend, qkv, own)
            before = timer()
            result = inject(call, block, grid, row, attend, qkv, own)
            between = timer()
            attend(*qkv)
            after = timer()
            self._beside += after - between
            self.seconds["injection"] += (between - before) - (after - between)
            return result

        return timed


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most memory that tensors take at once while the work is done, beyond what they took before."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    assert watched.profiler is not None
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


def host_waits(work: Callable[[], Any]) -> int:
    """How often the host waits for the GPU while the work is done."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as watched:
        work()
    return sum(event.count for event in watched.key_averages() if event.key in _WAITS)
