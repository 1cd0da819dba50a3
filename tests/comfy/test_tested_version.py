"""A ComfyUI newer than any tested version gives one line in the log, and is never refused."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from devtools import incore, pins

Load = Callable[[object], list[str]]


@pytest.fixture
def lines(pack: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> Load:
    """`lines(version)` -> what loading the pack logs in a ComfyUI of that version."""
    folder_paths = importlib.import_module("folder_paths")
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))

    def load(version: object) -> list[str]:
        stand_in = ModuleType("comfyui_version")
        if version is not None:
            stand_in.__version__ = version  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "comfyui_version", stand_in)
        extension = asyncio.run(pack.comfy_entrypoint())
        caplog.clear()
        with caplog.at_level(logging.INFO):
            asyncio.run(extension.on_load())
        return [record.getMessage() for record in caplog.records if record.name.startswith("magicface")]

    return load


def test_the_newest_tested_version_is_the_newest_core(pack: ModuleType) -> None:
    tested_version = importlib.import_module("magicface.nodes.tested_version")
    assert pins.CORES["newest"].version == tested_version.NEWEST_TESTED


@pytest.mark.parametrize("version", ["0.30.1", "0.31.0", "1.0", "v0.31.0", "0.31.0rc1", "0.30.0.1"])
def test_a_newer_version_gives_one_line(lines: Load, version: str) -> None:
    found = lines(version)
    assert len(found) == 1 and version in found[0] and pins.CORES["newest"].version in found[0]


@pytest.mark.parametrize("version", ["0.30.0", "0.30", "0.16.3", "0.9.99", "0.30.0+local"])
def test_an_equal_or_older_version_gives_none(lines: Load, version: str) -> None:
    assert lines(version) == []


@pytest.mark.parametrize("version", ["", "unknown", "nightly-2", None, object()])
def test_an_unreadable_version_gives_none_and_no_error(lines: Load, version: object) -> None:
    assert lines(version) == []


def test_a_comfyui_without_that_module_gives_none_and_no_error(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "comfyui_version", None)
    tested_version = importlib.import_module("magicface.nodes.tested_version")
    with caplog.at_level(logging.INFO):
        tested_version.note_untested_version()
    assert caplog.records == []


def test_both_supported_cores_have_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = os.environ.get(incore.CHOICE)
    if not tree:
        pytest.skip(f"{incore.CHOICE} names no ComfyUI")
    monkeypatch.syspath_prepend(tree)
    monkeypatch.delitem(sys.modules, "comfyui_version", raising=False)
    version = importlib.import_module("comfyui_version").__version__
    assert version in {core.version for core in pins.CORES.values()}
