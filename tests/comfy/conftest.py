"""A real ComfyUI in this process: the tree that MAGICFACE_TEST_COMFYUI names, or one that can be imported anyway."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from devtools import incore


def start_comfyui() -> str:
    """Make ComfyUI importable; returns why that cannot be, or an empty text."""
    tree = os.environ.get(incore.CHOICE)
    if not tree:
        found = importlib.util.find_spec("comfy")
        if found is None or not found.submodule_search_locations:
            return f"no ComfyUI: {incore.CHOICE} must name its folder"
        tree = str(Path(found.submodule_search_locations[0]).parent)
    if not Path(tree, "comfy", "options.py").is_file():
        return f"no ComfyUI in {tree}, which {incore.CHOICE} names"
    incore.prepare(Path(tree))
    return ""


MISSING = start_comfyui()
# More threads gain nothing on models this small, and lose much on a busy machine.
torch.set_num_threads(1)


class Unread(pytest.Module):
    """A test file that is skipped as a whole, without the imports that would fail."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        """Skip."""
        pytest.skip(MISSING, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Where there is no ComfyUI, skip this folder's test files."""
    return Unread.from_parent(parent, path=module_path) if MISSING else None


@pytest.fixture(scope="session")
def tiny_model() -> ModuleType:
    """The module that builds small models."""
    return importlib.import_module("devtools.tiny_pack.tiny_model")


@pytest.fixture(scope="session")
def tiny(tiny_model: ModuleType) -> Callable[[str], tuple[Any, Any, Any]]:
    """`tiny(family)` -> (model, clip, vae), built once a session: clone one before you change it."""
    return lru_cache(tiny_model.load)


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """This checkout as the package `magicface`, as ComfyUI loads a custom node folder."""
    return incore.load_pack()
