"""A real ComfyUI server for all tests in this folder, and `dev.py` as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devtools import environment
from devtools.client import Client
from devtools.install import Install
from devtools.pins import ROOT
from devtools.server import Server

IDLE_LIMIT_S = 120
Dev = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def install() -> Install:
    core = os.environ.get("MAGICFACE_TEST_COMFYUI") or environment.comfyui("newest")
    return Install(Path(core), Path(sys.executable))


@pytest.fixture(scope="session")
def server(install: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(install, tmp_path_factory.mktemp("base")) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """The server's client. A run that a test has left is ended, else the tests after it would wait for it."""
    client = server.client
    yield client
    end = time.monotonic() + IDLE_LIMIT_S
    while any(client.get_json("/queue").values()):
        assert time.monotonic() < end, server.log_tail()
        client.post("/queue", {"clear": True})
        client.post("/interrupt", {})
        time.sleep(0.2)


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    """Starts `dev.py` with some arguments; processes that still run at the end of the test are stopped."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("COMFYUI_")}
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "dev.py"), *arguments], cwd=tmp_path, env={**own, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)
