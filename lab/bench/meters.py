"""Meters for an evaluation: the time of its parts, its peak memory, and how often the host waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from .clock import timer

# The profiler's names of waits. Copies to and from the host use the first one.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
PARTS = ("reference pass", "injection", "segmentation", "guidance", "UNet")


class Parts:
    """Seconds of each part of the evaluations; "UNet" is the rest, which is the target's own pass.

    "injection" is the time that the attention of the injection blocks takes beyond the target's own attention.
    """

    def __init__(self, pack: ModuleType) -> None:
        self._pack = pack
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._beside = 0.0
        self._inside = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Measure the pack's work in this context."""
        sampling, attention = self._pack.sampling, self._pack.attention
        rule = attention.injection.InjectionRule
        with ExitStack() as stack:
            for owner, name, part in (
                (sampling.references.reference_pass.ReferencePass, "run", "reference pass"),
                (sampling.run.unet_call, "cross_attention_map", "segmentation"),
                (attention.segmentation.AttentionMaps, "add", "segmentation"),
                (sampling.regions.segmenter.Segmenter, "regions", "segmentation"),
                (sampling.regions.index.RegionIndex, "read_with", "segmentation"),
                (sampling.run.run, "guidance_rate", "guidance"),
            ):
                stack.enter_context(patch.object(owner, name, self._timed(getattr(owner, name), part)))
            stack.enter_context(patch.object(rule, "__call__", self._injection(rule.__call__)))
            yield

    def whole(self, work: Callable[[], Any]) -> Any:
        """Run an evaluation; the time that belongs to no other part is added to "UNet"."""
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

    def _injection(self, inject: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def timed(rule: Any, attend: Any, q: Tensor, k: Tensor, v: Tensor, *others: Any) -> Tensor:
            if not self._inside:
                return inject(rule, attend, q, k, v, *others)
            before = timer()
            result = inject(rule, attend, q, k, v, *others)
            between = timer()
            attend(q, k, v)
            after = timer()
            self._beside += after - between
            self.seconds["injection"] += (between - before) - (after - between)
            return result

        return timed


def peak_bytes(work: Callable[[], Any]) -> int:
    """Peak memory of tensors during the work, beyond what they took before, in bytes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        work()
    assert watch.profiler is not None
    events = [event for event in watch.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


def host_waits(work: Callable[[], Any]) -> int:
    """How many times the host waits for the GPU during the work."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as watch:
        work()
    return sum(event.count for event in watch.key_averages() if event.key in WAITS)
