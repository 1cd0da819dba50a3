"""`dev.py gpu` from its beginning to its end, without a GPU, on the tiny shape."""

from __future__ import annotations

import json
import subprocess
import sys

from devtools.pins import ROOT
from lab.bench.names import BATCHED, CACHED, CACHED_ON_DEVICE, UNPATCHED
from lab.gpu.command import DONE, LIMITS_S
from lab.gpu.weighted_attention import WAYS


def test_every_part_ends_with_its_figures(tmp_path):
    file = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "dev.py"), "--inside", "gpu", "--device", "cpu", "--shapes", "tiny"]
    ended = subprocess.run([*command, "--json", str(file)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = json.loads(file.read_text("utf-8"))
    parts = {name: part["figures"] for name, part in figures["parts"].items()}
    assert {name: part["state"] for name, part in figures["parts"].items()} == dict.fromkeys(LIMITS_S, DONE)
    assert parts["checks"]["max_error"] < 1e-4
    assert all(value for name, value in parts["checks"].items() if name.endswith("equal bits"))
    assert {"cold_n1", "cold_n2", "cold_n3", "floor_n3", "warm_n3"} <= set(parts["evaluations"]["ratios"])
    ways = parts["evaluations"]["ways"]
    assert all(way["peak_mb"] > 0 and way["seconds"] > 0 for way in ways.values())
    assert {UNPATCHED, "1", "2", "3", CACHED, CACHED_ON_DEVICE, BATCHED} < set(ways)
    assert parts["evaluations"]["cached MB of an evaluation"] >= 0
    assert {row["way"] for row in parts["attention"]["rows"]} == set(WAYS)
    assert set(parts["profile"]) == {UNPATCHED, "3", CACHED}
    assert all(its["ms"] > 0 and its["kernels"] for its in parts["profile"].values())
    assert {"first_n3", "next_n3"} <= set(parts["pictures"]["ratios"])
    assert {"authors_over_ours_n3", "memory_ours_over_authors", "max_error"} <= set(parts["authors"]["ratios"])
    assert "1 failed" not in ended.stdout and "passed" in ended.stdout
    for name in (*LIMITS_S, *WAYS, CACHED_ON_DEVICE, "Worth changing"):
        assert name in ended.stdout
