"""The training loop: AdamW with warm-up and decay, gradients of several parts, averaged weights, checkpoints."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

SEED = 0
WARM_UP = 100  # steps
AVERAGE = 0.999
CHECKPOINT_SECONDS = 240.0
BAR_SECONDS = 2.0
_CURVE_POINTS = 200

Tensors = tuple[Tensor, ...] | list[Tensor]
Gradients = tuple[Tensor | None, ...]


@dataclass
class Phase:
    """A training phase.

    Attributes:
        name: also the name of its checkpoint.
        steps: number of steps; the learning rate falls to 0 at the end.
        rate: the largest learning rate.
        weights: the trained weights, by name; float32.
        losses: called with the number of the part, from 0; returns scalar losses by name, whose sum is minimised. On a
            CPU it is called in several threads at once.
        parts: number of parts of a step, whose mean gradient it takes. Step n has the parts n * parts and following.
        decay: share of the steps, at the end, in which the learning rate falls.
    """

    name: str
    steps: int
    rate: float
    weights: Mapping[str, nn.Parameter]
    losses: Callable[[int], dict[str, Tensor]]
    parts: int = 1
    decay: float = 0.9


@dataclass
class Progress:
    """The progress of a phase, which its checkpoint contains.

    Attributes:
        step: number of steps done.
        average: running average of the weights, by name.
        curve: (step, mean of each loss since the last point).
        since: the losses of the steps since then.
    """

    step: int = 0
    average: dict[str, Tensor] = field(default_factory=dict)
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    since: list[dict[str, float]] = field(default_factory=list)


def generator_at(number: int) -> torch.Generator:
    """The random numbers of a part, on the CPU. They are the same if training is stopped and resumed."""
    return torch.Generator().manual_seed((SEED << 32) + number)


def rate_at(step: int, phase: Phase) -> float:
    """The learning rate: it rises linearly, stays, and at the end falls along half a cosine."""
    if step < WARM_UP:
        return phase.rate * (step + 1) / WARM_UP
    last = max(phase.decay * phase.steps, 1)
    return phase.rate * 0.5 * (1 + math.cos(math.pi * max(1 - (phase.steps - step) / last, 0)))


def run(phase: Phase, folder: Path, deadline: float = math.inf) -> Progress:
    """Train a phase; continue from its checkpoint if there is one.

    Args:
        phase: the phase; its weights are changed in place.
        folder: for the checkpoint.
        deadline: value of `time.monotonic()` at which to stop, finished or not.

    Returns:
        The progress; `step == phase.steps` when it is finished.
    """
    path = folder / f"{phase.name}.pt"
    # Not fused: on a CPU that pairs weights with wrong gradients where the two differ in memory format.
    optimizer = torch.optim.AdamW(phase.weights.values(), betas=(0.9, 0.99), weight_decay=1e-3)
    weights = nn.ParameterList(phase.weights.values())
    average = AveragedModel(weights, multi_avg_fn=_average)
    progress = _resumed(path, phase, optimizer, average)
    saved = time.monotonic()
    first = progress.step
    bar = tqdm(desc=phase.name, total=phase.steps, initial=first, mininterval=BAR_SECONDS, file=sys.stdout)
    try:
        while progress.step < phase.steps and time.monotonic() < deadline:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(progress.step, phase)
            progress.since.append(_step(phase, progress, optimizer, weights, average))
            if progress.step % max(phase.steps // _CURVE_POINTS, 1) == 0:
                point = _mean(progress.since)
                progress.since.clear()
                progress.curve.append((progress.step, point))
                bar.set_postfix({name: f"{value:.4f}" for name, value in point.items()}, refresh=False)
            bar.update()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(path, phase, progress, optimizer)
                saved = time.monotonic()
    finally:
        bar.close()
        if progress.step > first:
            _save(path, phase, progress, optimizer)
    return progress


def _average(average: Tensors, weights: Tensors, steps: Tensor | int) -> None:
    """Update an exponential moving average in place. It forgets the first steps sooner: they began with random weights.

    Args:
        average, weights: float32, one tensor for each weight.
        steps: how many were made.
    """
    decay = min(AVERAGE, (1 + int(steps)) / (10 + int(steps)))
    torch._foreach_lerp_(average, weights, 1 - decay)


def _step(
    phase: Phase,
    progress: Progress,
    optimizer: torch.optim.Optimizer,
    weights: nn.ParameterList,
    average: AveragedModel,
) -> dict[str, float]:
    """Make one step and update the average; returns the losses before the step."""

    def part(index: int) -> tuple[dict[str, float], Gradients]:
        losses = phase.losses(progress.step * phase.parts + index)
        total = torch.stack(list(losses.values())).sum() / phase.parts
        gradients = torch.autograd.grad(total, list(weights), allow_unused=True)
        return {name: loss.item() for name, loss in losses.items()}, gradients

    if phase.parts > 1 and weights[0].device.type == "cpu":
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = list(pool.map(part, range(phase.parts)))
    else:
        done = [part(index) for index in range(phase.parts)]
    for weight, *gradients in zip(weights, *(gradients for _, gradients in done), strict=True):
        known = [gradient for gradient in gradients if gradient is not None]
        weight.grad = torch.stack(known).sum(0) if len(known) > 1 else (known or [None])[0]
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    progress.step += 1
    average.update_parameters(weights)
    return _mean([losses for losses, _ in done])


def _mean(losses: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each loss over the entries; 0 where an entry lacks it."""
    return {name: sum(entry.get(name, 0.0) for entry in losses) / len(losses) for name in losses[0]}


def _resumed(path: Path, phase: Phase, optimizer: torch.optim.Optimizer, average: AveragedModel) -> Progress:
    """The progress that a checkpoint holds, or none; weights, optimizer and average are set to match."""
    averaged = {name: weight.detach() for name, weight in zip(phase.weights, average.parameters(), strict=True)}
    progress = Progress(average=averaged)
    if path.is_file():
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, weight in phase.weights.items():
                weight.copy_(saved["weights"][name])
                averaged[name].copy_(saved["average"][name])
        optimizer.load_state_dict(saved["optimizer"])
        progress.step, progress.curve = saved["step"], [(step, point) for step, point in saved["curve"]]
        progress.since = saved["since"]
    # The average began with the weights before the first step, which count as one model.
    average.n_averaged.fill_(progress.step + 1)
    return progress


def _save(path: Path, phase: Phase, progress: Progress, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint. A process or machine that dies meanwhile leaves the last one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = {
        "step": progress.step,
        "curve": progress.curve,
        "since": progress.since,
        "average": progress.average,
        "weights": {name: weight.detach() for name, weight in phase.weights.items()},
        "optimizer": optimizer.state_dict(),
    }
    unfinished = path.with_suffix(".half")
    with unfinished.open("wb") as file:
        torch.save(saved, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
