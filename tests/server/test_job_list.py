"""A job list on real servers: what is made, what is made again, and what servers may do in the middle of it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devtools import api_format
from devtools.client import Client
from devtools.install import Install
from devtools.server import Server

from .job_lists import LIMIT_S, REFERENCES, SMALL, WORDS, copy_references, pixels, started, until

SCRIPT = api_format.API_WORKFLOWS / "queue_workflow.py"
WORKFLOW = api_format.API_WORKFLOWS / "magicface_one_concept.json"
SMALL_COLUMNS = {f"set.{name}": str(value) for name, value in SMALL.items()}
FAILS = {"id": "no-hat", "prompt": "a landscape", "seed": "1", **SMALL_COLUMNS}  # the word of the concept is not there


def write_list(folder: Path, *further: dict[str, str]) -> Path:
    """24 jobs in 4 lines, with two references, and further lines; the pictures are beside the list."""
    copy_references(folder)
    rows = [
        {"id": f"{name}-{cfg}", "seed": "1-6", "prompt": WORDS, "picture.hat": f"{name}.png",
         "set.KSampler.cfg": cfg, **SMALL_COLUMNS}
        for cfg in ("4", "7") for name in REFERENCES
    ]  # fmt: skip
    file = folder / "jobs.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows([*rows, *further])
    return file


def command(jobs: Path, output: str, *urls: str, options: Sequence[str] = ()) -> list[str]:
    servers = [word for url in urls for word in ("--server", url)]
    return [sys.executable, str(SCRIPT), str(WORKFLOW), "--jobs", str(jobs), "--output", output, *servers, *options]


def run(jobs: Path, output: str, *urls: str, options: Sequence[str] = ()) -> tuple[int, list[str], str]:
    """Exit status, lines of the standard output, and the standard error."""
    words = command(jobs, output, *urls, options=options)
    done = subprocess.run(words, cwd=jobs.parent, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def is_running(client: Client) -> bool:
    return bool(client.get_json("/queue")["queue_running"])


@pytest.fixture(scope="module")
def alone(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a list that one server did alone, with a job that fails."""
    folder = tmp_path_factory.mktemp("alone")
    status, lines, told = run(write_list(folder, FAILS), "made", server.url)
    assert (status, lines[0]) == (1, "24 done, 1 failed, 0 skipped (done before), 0 left"), told
    return folder


def test_a_list_is_done_and_a_job_that_fails_is_noted(alone: Path, server: Server) -> None:
    made = pixels(alone / "made")
    assert sorted(made) == sorted(
        f"{name}-{cfg}-{n}" for name in ("hat", "scarf") for cfg in (4, 7) for n in range(1, 7)
    )
    assert all(picture.shape == (128, 128, 3) for picture in made.values())
    assert len({picture.tobytes() for picture in made.values()}) == 24
    lines = {line["id"]: line for line in manifest(alone / "made")}
    assert len(lines) == len(manifest(alone / "made")) == 25
    assert "'hat' is not in the positive prompt" in lines["no-hat"]["error"] and not lines["no-hat"]["files"]
    line = lines["scarf-7-5"]
    assert (line["seed"], line["server"], line["error"]) == (5, server.url, None) and line["seconds"] > 0
    assert line["files"] == ["scarf-7-5.png", "shown/scarf-7-5_MagicFaceSegmentationPreview.png"]
    assert all((alone / "made" / name).is_file() for one in lines.values() for name in one["files"])
    assert len(list((server.base / "input").glob("magicface_????????????????????????.png"))) == 2
    # Jobs with the same reference follow each other.
    order = [line["id"].partition("-")[0] for line in lines.values() if line["id"] != "no-hat"]
    assert order == ["hat"] * 12 + ["scarf"] * 12


def test_run_again_it_makes_what_is_missing(alone: Path, client: Client, tmp_path: Path) -> None:
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    made, before = tmp_path / "made", len(client.get_json("/history"))
    status, lines, _ = run(write_list(tmp_path), "made", client.url)
    assert (status, lines[0]) == (0, "0 done, 0 failed, 24 skipped (done before), 0 left")
    assert len(client.get_json("/history")) == before
    (made / "hat-4-3.png").unlink()
    times = {file: file.stat().st_mtime_ns for file in made.glob("*.png")}
    status, lines, _ = run(write_list(tmp_path, FAILS), "made", client.url)
    assert (status, lines[0]) == (1, "1 done, 1 failed, 23 skipped (done before), 0 left")
    assert len(client.get_json("/history")) == before + 2
    assert all(file.stat().st_mtime_ns == old for file, old in times.items())
    expected, again = pixels(alone / "made"), pixels(made)
    assert np.array_equal(again["hat-4-3"], expected["hat-4-3"]) and again.keys() == expected.keys()


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_a_run_that_was_killed_goes_on(alone: Path, client: Client, tmp_path: Path) -> None:
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    made = tmp_path / "made"
    for file in made.glob("hat-7-*.png"):
        file.unlink()
    before = len(manifest(made))
    with started(command(write_list(tmp_path), "made", client.url), cwd=tmp_path):
        until(lambda: len(manifest(made)) > before)
    ended = len(manifest(made)) - before
    status, lines, _ = run(write_list(tmp_path), "made", client.url)
    assert (status, lines[0]) == (0, f"{6 - ended} done, 0 failed, {18 + ended} skipped (done before), 0 left")
    expected, again = pixels(alone / "made"), pixels(made)
    assert again.keys() == expected.keys()
    assert all(np.array_equal(again[name], expected[name]) for name in expected)


def test_a_node_that_no_server_has_fails_its_jobs_alone(client: Client, tmp_path: Path) -> None:
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    prompt["90"] = {"class_type": "NotThere", "inputs": {}}
    (tmp_path / "other.json").write_text(json.dumps(prompt))
    jobs = tmp_path / "jobs.jsonl"
    rows = [{"id": "a", "workflow": "other.json", "seed": 1}, {"id": "b", "seed": 2, "set": SMALL}]
    jobs.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    status, lines, told = run(jobs, "made", client.url)
    assert (status, lines[0]) == (1, "1 done, 1 failed, 0 skipped (done before), 0 left"), told
    assert "NotThere" in manifest(tmp_path / "made")[0]["error"] and list(pixels(tmp_path / "made")) == ["b"]


def test_ctrl_c_takes_back_what_is_queued(client: Client, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(json.dumps({"id": "endless", "seed": "1-9", "set.KSampler.steps": 10_000}))
    with started(command(jobs, "made", client.url), cwd=tmp_path) as process:
        until(lambda: len(client.get_json("/queue")["queue_pending"]) == 1 and is_running(client))
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "0 done, 0 failed, 0 skipped (done before), 9 left" in output.splitlines()
    until(lambda: not is_running(client))
    assert not client.get_json("/queue")["queue_pending"] and not manifest(tmp_path / "made")


def test_a_job_that_never_ends_is_given_up(client: Client, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.jsonl"
    rows = [{"id": "endless", "set.KSampler.steps": 10_000}, {"id": "short", "set.KSampler.steps": 2}]
    small = {name: value for name, value in SMALL_COLUMNS.items() if "steps" not in name}
    jobs.write_text("".join(json.dumps(row | small) + "\n" for row in rows))
    _, lines, told = run(jobs, "made", client.url, options=("--stall-limit", "2"))
    assert lines[0] == "1 done, 1 failed, 0 skipped (done before), 0 left", told
    assert f"lost 3 times, at last: the queue of {client.url} has not moved" in told
    assert list(pixels(tmp_path / "made")) == ["short"]
    until(lambda: not is_running(client))


def test_no_server_at_all(tmp_path: Path) -> None:
    status, lines, told = run(write_list(tmp_path), "made", "127.0.0.1:1", "127.0.0.1:2", options=("--wait", "1"))
    assert (status, lines[0]) == (1, "0 done, 0 failed, 0 skipped (done before), 24 left")
    assert "http://127.0.0.1:1 does not answer" in told and "No server is left" in told


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_servers_that_die_hang_and_lack_the_checkpoint(
    server: Server, install: Install, alone: Path, tmp_path: Path
) -> None:
    """The pictures are those of one server alone, each made once."""
    only_the_pack = ("--disable-all-custom-nodes", "--whitelist-custom-nodes", "magicface")
    hangs, dies, lacks = server, Server(install, tmp_path / "a"), Server(install, tmp_path / "b", flags=only_the_pack)
    jobs, log, made = write_list(tmp_path), tmp_path / "log", tmp_path / "made"

    def wait_until(true: Callable[[], bool]) -> None:
        until(true, log.read_text)

    def has_made_one(by: Server) -> bool:
        lines = manifest(made) if (made / "manifest.jsonl").is_file() else []
        return any(line["server"] == by.url for line in lines) and is_running(by.client)

    with ExitStack() as stack:
        for one in (dies, lacks):
            stack.callback(one.stop)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Server.start, (dies, lacks)))
        start = [*command(jobs, "made", hangs.url, dies.url, lacks.url), "--answer-limit", "6"]
        told = stack.enter_context(log.open("w", encoding="utf-8"))
        process = stack.enter_context(started(start, cwd=tmp_path, stderr=told))
        assert dies.process_id is not None and hangs.process_id is not None
        wait_until(lambda: has_made_one(hangs))
        before = len(log.read_text())
        os.killpg(hangs.process_id, signal.SIGSTOP)
        stack.callback(os.killpg, hangs.process_id, signal.SIGCONT)
        wait_until(lambda: has_made_one(dies))
        os.killpg(dies.process_id, signal.SIGKILL)
        for url in (hangs.url, dies.url):
            wait_until(lambda url=url: f"{url} does not answer" in log.read_text()[before:])  # type: ignore[misc]
        os.killpg(hangs.process_id, signal.SIGCONT)
        output, _ = process.communicate(timeout=LIMIT_S)
    said = log.read_text(encoding="utf-8")
    assert output.splitlines()[0] == "24 done, 0 failed, 0 skipped (done before), 0 left", said
    assert process.returncode == 0 and f"{hangs.url} answers." in said[before:]
    assert "ckpt_name: 'sd_xl_base_1.0.safetensors' not in []" in said
    assert f"{lacks.url} is left out of the jobs that need this" in said
    left = hangs.client.get_json("/queue")
    assert not left["queue_running"] and not left["queue_pending"]
    lines = manifest(made)
    assert sorted(line["id"] for line in lines) == sorted(pixels(alone / "made"))
    assert {line["server"] for line in lines} == {dies.url, hangs.url}
    equal = pixels(made), pixels(alone / "made")
    assert equal[0].keys() == equal[1].keys()
    assert all(np.array_equal(equal[0][name], equal[1][name]) for name in equal[1])
