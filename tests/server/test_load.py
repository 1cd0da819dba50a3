"""The server under load, and after a cancel, a failure and a kill; `dev.py soak` is the long test under load."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devtools.client import Client, PromptError
from devtools.install import Install
from devtools.server import Server
from lab import soak

NUMBER = 1
LIMIT_S = 120


def prompt_with(class_type: str, **inputs: Any) -> dict[str, Any]:
    """The soak's prompt with other inputs of one class of nodes."""
    prompt = soak.prompt_number(NUMBER)
    for node in prompt.values():
        if node["class_type"] == class_type:
            node["inputs"].update(inputs)
    return prompt


def until(true: Callable[[], bool], server: Server) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < end, server.log_tail()
        time.sleep(0.1)


def nothing_is_left_over(server: Server) -> bool:
    """Whether no state of a run lives; the thread that ran it may hold an error's traceback a moment longer."""
    return not server.client.get_json("/magicface_dev/alive")["left_over"]


def is_sampling(server: Server) -> bool:
    return any(f"| {step}/10000" in server.log_tail() for step in range(2, 99))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads memory from /proc")
def test_a_short_soak_leaves_nothing_over(install: Install, tmp_path: Path) -> None:
    """Six different prompts leave nothing over; the last pictures are those of a fresh process."""
    with Server(install, tmp_path / "long", flags=soak.FLAGS) as server:
        figures, checked = soak.run_all(server, 6, 3)
    assert figures["prompts"] == 6 and len(figures["resident_mb"]) == len(figures["tensors_mb"]) == 2
    assert list(checked) == [2, 5]
    with Server(install, tmp_path / "fresh", flags=soak.FLAGS) as fresh:
        soak.upload(fresh.client)
        assert np.array_equal(soak.picture(fresh.client, soak.prompt_number(5)), checked[5])


@pytest.mark.parametrize("grows", [False, True])
def test_memory_that_grows_is_an_error(grows: bool) -> None:
    levels = [900, 1000, 990, 995, 1000, 1010, 1005, 1110 if grows else 1090]
    if grows:
        with pytest.raises(soak.SoakError, match="the process grew from 1000 MB after the warm-up to 1110 MB"):
            soak.check_level("the process", levels)
    else:
        soak.check_level("the process", levels)


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_a_server_that_is_cancelled_fails_and_is_killed(install: Install, tmp_path: Path) -> None:
    """Afterwards, in the same or a new process with the same folder, the picture is that of a fresh process."""
    prompt, endless = soak.prompt_number(NUMBER), prompt_with("KSampler", steps=10_000)
    wrong = prompt_with("MagicFacePrompt", text="a landscape")
    with Server(install, tmp_path / "base", flags=soak.FLAGS) as server:
        client: Client = server.client
        soak.upload(client)
        expected = soak.picture(client, prompt)

        cancelled = client.queue(endless)
        until(lambda: is_sampling(server), server)
        client.post("/interrupt", {})
        until(lambda: bool(client.get_json(f"/history/{cancelled}")), server)
        until(lambda: nothing_is_left_over(server), server)
        assert np.array_equal(soak.picture(client, prompt), expected)

        with pytest.raises(PromptError, match="is not in the positive prompt"):
            client.run(wrong)
        until(lambda: nothing_is_left_over(server), server)
        assert np.array_equal(soak.picture(client, prompt), expected)

        client.queue(prompt_with("KSampler", steps=10_000, seed=77))
        until(lambda: json.loads(client.get("/queue"))["queue_running"] and is_sampling(server), server)
        assert server.process_id is not None
        os.killpg(server.process_id, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
    with Server(install, tmp_path / "base", flags=soak.FLAGS) as server:
        assert np.array_equal(soak.picture(server.client, prompt), expected)
