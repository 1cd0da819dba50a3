"""What `dev.py gpu` makes of its parts: time limits, figures so far, tables and advice."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from lab import figures
from lab.bench import clock
from lab.bench.machine import machine
from lab.bench.names import CACHED, CACHED_ON_DEVICE, UNPATCHED
from lab.gpu import command
from lab.gpu.advice import advice
from lab.gpu.tables import lines_of

WRITE = "import json, sys, time; json.dump({'measured': 1}, open(sys.argv[-1], 'w')); "


@pytest.mark.parametrize(
    ("code", "state", "measured"),
    [
        (WRITE, command.DONE, {"measured": 1}),
        (WRITE + "sys.exit(3)", command.FAILED, {"measured": 1}),
        ("raise SystemExit(1)", command.FAILED, {}),
    ],
)
def test_a_part_ends_with_the_figures_that_it_wrote(code: str, state: str, measured: dict[str, int]) -> None:
    found = command.run_part([sys.executable, "-c", code, command.FILE], 600)
    assert (found["state"], found["figures"]) == (state, measured)


def test_a_part_that_does_not_end_is_cut_off_and_keeps_its_figures(tmp_path: Path) -> None:
    """It never ends by itself, so the limit may be as short as it takes to start."""
    began = tmp_path / "began"
    code = f"{WRITE} open({str(began)!r}, 'w').close()\nwhile True: time.sleep(60)"
    limit_s = 1.0
    while not began.exists():
        found = command.run_part([sys.executable, "-c", code, command.FILE], limit_s)
        limit_s *= 2
    assert (found["state"], found["figures"]) == (command.CUT_OFF, {"measured": 1})
    assert command.run_part([sys.executable, "-c", code], 0.0)["state"] == command.LEFT_OUT


def test_the_limits_of_all_parts_fit_into_the_whole() -> None:
    assert sum(command.LIMITS_S.values()) <= command.TOTAL_S == 480


def test_figures_replace_a_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    figures.write(file, {"old": 1})
    with pytest.raises(TypeError):
        figures.write(file, {"new": object()})
    assert figures.read(file) == {"old": 1}
    figures.write(file, {"new": 2})
    assert json.loads(file.read_text("utf-8")) == {"new": 2}
    assert list(tmp_path.iterdir()) == [file]


def test_good_figures_need_no_advice() -> None:
    row = {"what": "x", "way": "flash", "ratio": 0.95, "error": 0.0, "first_s": 0.1}
    wrong = {**row, "way": "unweighted", "ratio": 0.5, "error": 0.7}
    parts = {
        "checks": {"max_error": 1e-6, "a: equal bits": True, "host waits in an evaluation": {UNPATCHED: 3, "3": 4}},
        "evaluations": {
            "ratios": {"floor_n3": 1.04, "warm_n3": 1.09},
            "ways": {CACHED: {"seconds": 1.0}, CACHED_ON_DEVICE: {"seconds": 0.95}},
        },
        "attention": {"rows": [row, wrong, {"what": "x", "way": "cuDNN", "reason": "no kernel"}]},
        "profile": {
            UNPATCHED: {"kernels": {"gemm": [10, 5.0]}, "ms": 9.0},
            CACHED: {"kernels": {"gemm": [10, 5.1], "copy": [3, 0.2]}, "ms": 10.0},
        },
    }
    assert advice(parts) == []
    assert advice({}) == []


@pytest.mark.parametrize(
    ("part", "measured", "told"),
    [
        ("checks", {"max_error": 1e-3}, "differs from the authors' way by 1.0e-03"),
        ("checks", {"3, cached: equal bits": False}, "3, cached: the prediction has other bits"),
        ("checks", {"host waits in an evaluation": {UNPATCHED: 3, "3": 5}}, "3: the host waits 2 times more"),
        ("evaluations", {"ratios": {"floor_n3": 1.2}}, "floor_n3 is 1.20, more than 1.05"),
        ("evaluations", {"ratios": {"warm_n3": 1.2}}, "warm_n3 is 1.20, more than 1.10"),
        (
            "evaluations",
            {"ways": {CACHED: {"seconds": 0.2}, CACHED_ON_DEVICE: {"seconds": 0.1}}},
            "takes 100.0 ms of an evaluation's 200.0 ms",
        ),
        (
            "attention",
            {"rows": [{"what": "x", "way": "flash", "ratio": 0.4, "error": 1e-3, "first_s": 0.25}]},
            "Weighted attention, flash: 0.40 of the time of the way in use (first call: 0.25 s)",
        ),
        (
            "profile",
            {
                UNPATCHED: {"kernels": {"copy": [1, 1.0]}, "ms": 9.0},
                CACHED: {"kernels": {"copy": [9, 3.0]}, "ms": 10.0},
            },
            "copy takes 2.0 ms more than unpatched (9 calls)",
        ),
    ],
)
def test_each_thing_worth_changing_is_named(part: str, measured: dict[str, object], told: str) -> None:
    [line] = advice({part: measured})
    assert told in line


def test_parts_without_figures_are_told() -> None:
    assert {part for part in command.LIMITS_S if lines_of(part, {}) != ["no figures"]} == {"tests"}


def test_figures_say_when_they_are_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(clock, "_clock", lambda: 5.0)
    assert clock.timer() == 5.0 and "time of the process" not in machine()
    monkeypatch.setattr(time, "process_time", lambda: 7.0)
    try:
        clock.use_process_time()
        assert clock.timer() == 7.0 and torch.get_num_threads() == 1
        assert machine().endswith("time of the process")
    finally:
        torch.set_num_threads(threads)
