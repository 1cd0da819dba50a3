"""A job list on a real Ray with two actors, of which one is killed, and the ComfyUI of the other."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from devtools import api_format
from devtools.install import Install
from devtools.server import Server, has_gpu, prepare_base

from .job_lists import LIMIT_S, REFERENCES, SMALL, WORDS, copy_references, pixels, started, until

SCRIPTS = api_format.API_WORKFLOWS
WORKFLOW = SCRIPTS / "magicface_one_concept.json"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


def write_list(folder: Path) -> Path:
    """12 jobs with two references, one after the other; the pictures are beside the list."""
    copy_references(folder)
    rows = [
        {"id": f"{name}-{seed}", "seed": seed, "prompt": WORDS, "picture": {"hat": f"{name}.png"},
         "set": SMALL}
        for seed in range(1, 7) for name in REFERENCES
    ]  # fmt: skip
    file = folder / "jobs.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("results/[!.]*.json")]


class Cluster:
    """Runs the script with a Ray of its own, which shares nothing with another one of this machine."""

    def __init__(self, install: Install, folder: Path) -> None:
        self.folder, self.base, self.log = folder, folder / "base", folder / "log"
        prepare_base(self.base)
        device = () if has_gpu(install.python, self.base) else ("--cpu",)
        flags = ("--base-directory", str(self.base), "--use-pytorch-cross-attention", "--disable-api-nodes", *device)
        self.command = [
            sys.executable, str(SCRIPTS / "on_ray.py"), str(WORKFLOW), "--jobs", str(write_list(folder)),
            "--output", "made", "--address", "local", f"--flags={' '.join(flags)}", "--gpus", "0", "--actors", "2",
            "--block", "2", "--answer-limit", "20",
        ]  # fmt: skip
        self.environment = {
            **os.environ,
            "COMFYUI_PATH": str(install.comfyui),
            "COMFYUI_PYTHON": str(install.python),
            "TMPDIR": str(folder),
            "RAY_TMPDIR": f"/tmp/mf-{secrets.token_hex(4)}",  # names of sockets have to be short
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(100 * 2**20),
        }

    @contextlib.contextmanager
    def start(self, *further: str) -> Iterator[subprocess.Popen[str]]:
        with (
            self.log.open("a", encoding="utf-8") as log,
            started([*self.command, *further], cwd=self.folder, env=self.environment, stderr=log) as process,
        ):
            yield process

    def comfyuis(self) -> list[psutil.Process]:
        """The processes of ComfyUI that the actors have started: children of the processes that wait for them."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error, AttributeError):
                if str(self.base) in process.cmdline() and process.cmdline() == process.parent().cmdline():
                    found.append(process)
        return found

    def processes(self) -> list[psutil.Process]:
        """Everything that runs with this cluster's environment."""
        mine = self.environment["RAY_TMPDIR"]
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@pytest.fixture
def cluster(install: Install, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(install, tmp_path)
    yield made
    for process in made.processes():
        with contextlib.suppress(psutil.Error):
            process.kill()
    shutil.rmtree(made.environment["RAY_TMPDIR"], ignore_errors=True)


def test_an_actor_and_a_server_are_killed(cluster: Cluster, server: Server, tmp_path: Path) -> None:
    """Every picture is there once, equal to that of one server alone; then nothing is left to do."""
    made = tmp_path / "made"
    with cluster.start() as process:
        until(
            lambda: len(cluster.comfyuis()) == 2 and len(results(made)) > 0,
            cluster.log.read_text,
            lambda: process.poll() is not None,
        )
        first, second = cluster.comfyuis()
        for one in (first, second):
            one.suspend()  # from here on nothing is made by these two
        before = {result["id"]: result for result in results(made)}
        actor = first.parents()[1]
        assert 0 < len(before) < 12
        assert "ray::" in " ".join(actor.cmdline())
        actor.kill()
        second.kill()
        first.resume()
        until(lambda: not first.is_running(), cluster.log.read_text)
        output, _ = process.communicate(timeout=LIMIT_S)
    said = cluster.log.read_text(encoding="utf-8")
    assert (process.returncode, output.splitlines()[-2]) == (0, "12 done, 0 failed, 0 skipped (done before), 0 left"), (
        said
    )
    after = {result["id"]: result for result in results(made)}
    assert len(results(made)) == len(after) == 12 and not (made / "failed").exists()
    gone = {result["server"] for result in before.values()}
    assert all(after[name] == result for name, result in before.items())
    assert not gone & {result["server"] for name, result in after.items() if name not in before}
    until(lambda: not cluster.processes())
    assert not list(tmp_path.glob("magicface-*"))

    command = [sys.executable, str(SCRIPTS / "queue_workflow.py"), *cluster.command[2:5], "--server", server.url]
    subprocess.run([*command, "--output", "alone"], cwd=tmp_path, check=True, timeout=LIMIT_S)
    expected, found = pixels(tmp_path / "alone"), pixels(made)
    assert found.keys() == expected.keys() and len(found) == 12
    assert all(np.array_equal(found[name], expected[name]) for name in expected)

    files = {file: file.stat().st_mtime_ns for file in made.rglob("*.*")}
    with cluster.start() as process:
        output, _ = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, output.splitlines()[-2]) == (0, "0 done, 0 failed, 12 skipped (done before), 0 left")

    # A job that fails, on a server that runs already.
    with (tmp_path / "jobs.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps({"id": "no-hat", "prompt": "a landscape", "set": SMALL}))
    with cluster.start("--server", server.url) as process:
        output, _ = process.communicate(timeout=LIMIT_S)
    said = cluster.log.read_text(encoding="utf-8")
    assert output.splitlines()[-2] == "0 done, 1 failed, 12 skipped (done before), 0 left", said
    assert process.returncode == 1 and "no-hat (line 13) failed: " in said
    noted = json.loads((made / "failed" / "no-hat.json").read_text(encoding="utf-8"))
    assert noted["server"] == server.url and "'hat' is not in the positive prompt" in noted["error"]
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert not [file for file in made.rglob("*.*") if file not in files and file.parent.name != "failed"]
