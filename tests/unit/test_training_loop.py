"""The training loop learns, stops at a deadline, and continues as if it had not stopped."""

from __future__ import annotations

import os
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lab.training import loop

STEPS = 300


def phase(steps: int = STEPS, parts: int = 1) -> loop.Phase:
    """A phase that fits a line to noisy points."""
    slope = nn.Parameter(torch.zeros(2))

    def losses(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, generator=generator)
        y = 3 * x - 1 + 0.1 * torch.randn(16, generator=generator)
        return {"error": (slope[0] * x + slope[1] - y).square().mean()}

    return loop.Phase("line", steps, 0.1, {"slope": slope}, losses, parts)


class Stopped(Exception):
    """Stands for a crash of the machine."""


def test_the_loop_learns_and_averages_weights(tmp_path: Path) -> None:
    line = phase()
    progress = loop.run(line, tmp_path)
    assert progress.step == STEPS and (tmp_path / "line.pt").is_file()
    torch.testing.assert_close(line.weights["slope"].detach(), torch.tensor([3.0, -1.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(progress.average["slope"], torch.tensor([3.0, -1.0]), atol=0.2, rtol=0)
    steps, errors = zip(*((step, point["error"]) for step, point in progress.curve), strict=True)
    assert list(steps) == sorted(steps) and errors[-1] < errors[0] / 10


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = phase()
    expected = loop.run(whole, tmp_path / "whole")

    stopped = phase()
    now = time.monotonic()
    ticks = iter([now] * 100)  # then time is up
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(ticks, now + 100))
    assert 0 < loop.run(stopped, tmp_path / "parts", now + 50).step < STEPS
    monkeypatch.undo()
    resumed = phase()
    progress = loop.run(resumed, tmp_path / "parts")
    assert progress.step == STEPS
    assert torch.equal(resumed.weights["slope"], whole.weights["slope"])
    assert torch.equal(progress.average["slope"], expected.average["slope"])


def killed_while_training(folder: Path, step: int) -> None:
    """Train in this process, which ends at a step without any clean-up."""
    doomed = phase(parts=2)
    losses = doomed.losses
    doomed.losses = lambda number: losses(number) if number < 2 * step else os._exit(1)
    loop.CHECKPOINT_SECONDS = 0.0  # a checkpoint after every step
    loop.run(doomed, folder)


def test_a_killed_training_continues_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole = phase(parts=2)
    expected = loop.run(whole, tmp_path / "whole")
    process = get_context("spawn").Process(target=killed_while_training, args=(tmp_path / "parts", 20))
    process.start()
    process.join()
    assert process.exitcode == 1
    resumed = phase(parts=2)
    assert torch.load(tmp_path / "parts" / "line.pt", weights_only=True)["step"] == 20
    progress = loop.run(resumed, tmp_path / "parts")
    assert torch.equal(resumed.weights["slope"], whole.weights["slope"])
    assert torch.equal(progress.average["slope"], expected.average["slope"])
    assert progress.curve == expected.curve


def test_the_gradient_of_a_step_is_the_mean_over_its_parts(tmp_path: Path) -> None:
    """A step of two parts is a step of one with both parts' loss."""
    two, one = phase(3, parts=2), phase(3)
    part = one.losses

    def both(step: int) -> dict[str, Tensor]:
        return {"error": (part(2 * step)["error"] + part(2 * step + 1)["error"]) / 2}

    one.losses = both
    for which in (two, one):
        loop.run(which, tmp_path / str(which.parts))
    assert two.weights["slope"].detach().abs().min() > 0
    torch.testing.assert_close(two.weights["slope"], one.weights["slope"])


def test_a_deadline_in_the_past_trains_nothing(tmp_path: Path) -> None:
    line = phase()
    assert loop.run(line, tmp_path, time.monotonic() - 1).step == 0
    assert not line.weights["slope"].any() and not (tmp_path / "line.pt").exists()


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    line = phase()
    rates = [loop.rate_at(step, line) for step in range(STEPS)]
    highest = rates.index(max(rates))
    assert highest in (loop.WARM_UP - 1, loop.WARM_UP) and max(rates) == pytest.approx(0.1)
    assert rates[:highest] == sorted(rates[:highest])
    assert rates[highest:] == sorted(rates[highest:], reverse=True)
    assert rates[-1] < 1e-4


def test_the_memory_format_of_weights_does_not_matter(tmp_path: Path) -> None:
    first = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1))

    def trained(memory_format: torch.memory_format) -> Tensor:
        weight = nn.Parameter(first.clone(memory_format=memory_format))

        def losses(step: int) -> dict[str, Tensor]:
            return {"error": (weight - (1 + step % 2) * wanted).square().sum()}

        loop.run(loop.Phase("conv", 3, 0.1, {"weight": weight}, losses, 2), tmp_path / str(memory_format))
        return weight.detach()

    torch.testing.assert_close(trained(torch.channels_last), trained(torch.contiguous_format))
