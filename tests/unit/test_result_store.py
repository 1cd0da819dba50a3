"""Results of jobs in a folder and at an address of fsspec; what is done, and what has to be made again."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devtools import api_format

NAMES = {
    "Store": ("result_store", "ResultStore"),
    "Job": ("job_list", "Job"),
    "InputError": ("read_workflow", "InputError"),
}


class Scripts:
    """Classes of the scripts, which import each other as from one folder."""

    Store: Any
    Job: Any
    InputError: type[Exception]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Scripts:
    monkeypatch.syspath_prepend(str(api_format.API_WORKFLOWS))
    found = Scripts()
    for name, (module, inside) in NAMES.items():
        setattr(found, name, getattr(importlib.import_module(module), inside))
    return found


@pytest.fixture(params=["folder", "address"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "made") if request.param == "folder" else f"memory://{tmp_path}/made"


def job(scripts: Scripts, name: str, digest: str = "1234") -> Any:
    return scripts.Job(name, 1, None, digest)


def test_a_job_is_done_when_its_result_is_there(scripts: Scripts, place: str) -> None:
    store, jobs = scripts.Store(place), [job(scripts, name) for name in ("a", "a.b", "c")]
    assert store.open(jobs) == jobs
    store.write("a.png", b"picture")
    store.note("a", "1234", {"error": None})
    store.note("c", "1234", {"error": "no hat"})
    assert store.has("a", "1234") and not store.has("a", "5678") and not store.has("c", "1234")
    assert scripts.Store(place).open(jobs) == jobs[1:]
    left = {path.rpartition("/made/")[2] for path in store.files.find(store.root)}
    assert left == {"a.png", "results/a.1234.json"}  # the failure is forgotten, as its job is run again


def test_a_job_that_has_changed_is_made_again_and_back_again(scripts: Scripts, place: str) -> None:
    store = scripts.Store(place)
    store.note("a", "1234", {"error": None})
    changed = [job(scripts, "a", "5678")]
    assert store.open(changed) == changed
    store.note("a", "5678", {"error": None})
    assert not store.open(changed) and store.open([job(scripts, "a")])


def test_folders_of_others_are_left_alone(scripts: Scripts, place: str) -> None:
    store, jobs = scripts.Store(place), [job(scripts, "a")]
    store.write("a.png", b"mine")
    with pytest.raises(scripts.InputError, match="has a file 'a' that is not of a job list"):
        store.open(jobs)
    assert store.open([job(scripts, "b")])
    store.write("manifest.jsonl", b"")
    with pytest.raises(scripts.InputError, match=r"folder of queue_workflow\.py"):
        store.open(jobs)


def test_an_address_that_nothing_can_read(scripts: Scripts) -> None:
    with pytest.raises(scripts.InputError, match="--output nothing://a"):
        scripts.Store("nothing://a")


def test_the_script_says_in_one_line_that_ray_is_missing() -> None:
    script, environment = api_format.API_WORKFLOWS / "on_ray.py", {**os.environ, "PYTHONPATH": ""}
    # -S: a Python without packages.
    command = [sys.executable, "-S", str(script), "--jobs", "jobs.csv"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    expected = 'on_ray.py needs ray, which is not installed here: pip install "ray[data]"\n'
    assert (done.returncode, done.stderr) == (2, expected)
