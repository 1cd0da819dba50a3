"""The server itself: its start and stop, its port, how it recognises itself, a person's own install."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devtools import server as server_module
from devtools.install import Install
from devtools.pins import CORES
from devtools.server import Server, ServerError, is_free

Dev = Callable[..., "subprocess.Popen[str]"]


def test_the_given_core_runs_in_its_own_base_folder(server: Server, install: Install) -> None:
    system = server.client.get_json("/system_stats")["system"]
    assert str(server.base) in system["argv"]
    assert Path(system["argv"][0]) == install.comfyui / "main.py"
    assert system["comfyui_version"] == CORES["newest"].version
    assert {path.name for path in (server.base / "custom_nodes").iterdir()} == {"magicface", "magicface_dev"}


def test_another_server_on_the_port_is_recognised_as_foreign(server: Server, install: Install, tmp_path: Path) -> None:
    other = Server(install, tmp_path / "other", server.port)
    assert server._is_ours() and not other._is_ours()


def test_a_given_port_that_is_taken_is_an_error(server: Server, install: Install, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=rf"port {server.port} is in use.*--port"):
        Server(install, tmp_path, server.port).start()


def test_a_port_lost_while_starting_is_replaced(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", 0))
        rival.listen()
        taken = rival.getsockname()[1]
        find = server_module.free_port
        offered = iter([taken])
        monkeypatch.setattr(server_module, "free_port", lambda: next(offered, None) or find())
        with Server(install, tmp_path) as server:
            assert server.port != taken
            assert "SaveImage" in server.client.get_json("/object_info")
        assert is_free(server.port)


def test_a_failed_start_shows_the_log(install: Install, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"(?s)ended with code 2 while starting.*unrecognized arguments: --nonsense"):
        Server(install, tmp_path, flags=("--nonsense",)).start()


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serve_ends_with_its_server(dev: Dev, tmp_path: Path, number: int, code: int) -> None:
    process = dev("serve", "--base", str(tmp_path / "base"))
    assert process.stdout is not None
    port = next(int(found[1]) for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
    assert not is_free(port)
    process.send_signal(number)
    assert process.wait(60) == code
    assert is_free(port)


def test_an_own_install_is_used_and_not_changed(install: Install, dev: Dev, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(install.comfyui, own, ignore=shutil.ignore_patterns("__pycache__", "tests*"))
    (own / "models" / "checkpoints" / "mine.safetensors").write_bytes(b"")
    before = listing(own)
    with Server(Install(own, install.python, own=True), tmp_path / "base") as server:
        assert server.client.get_json("/system_stats")["system"]["argv"][0] == str(own / "main.py")
        loader: dict[str, Any] = server.client.get_json("/object_info/CheckpointLoaderSimple")
        assert "mine.safetensors" in str(loader), "its models can be used"
    assert listing(own) == before


def test_a_folder_without_comfyui_is_an_error(dev: Dev, tmp_path: Path) -> None:
    process = dev("serve", COMFYUI_PATH=str(tmp_path / "nowhere"))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"COMFYUI_PATH is {tmp_path / 'nowhere'}, but that folder has no main.py" in output


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path.relative_to(folder)), path.lstat().st_mtime_ns) for path in folder.rglob("*"))
