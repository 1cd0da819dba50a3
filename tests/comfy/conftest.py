"""A real ComfyUI in this process: the tree that MAGICFACE_TEST_COMFYUI names, or one that can be imported anyway."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch

from devtools import incore

if TYPE_CHECKING:
    from .graph import Graph


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


THREADS = "MAGICFACE_TEST_THREADS"
NOISE = "MAGICFACE_TEST_NOISE"


def load_oracle() -> None:
    """The oracle of the method as package `oracle`, as the unit tests load it."""
    if "oracle" not in sys.modules:
        folder = Path(__file__).resolve().parents[1] / "oracle"
        spec = importlib.util.spec_from_file_location(
            "oracle", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules["oracle"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["oracle"])


MISSING = start_comfyui()
load_oracle()
# More threads gain nothing on models this small, and lose much on a busy machine. How many there are is a part of how
# numbers are rounded, so other counts can be tried.
torch.set_num_threads(int(os.environ.get(THREADS, "1")))


def round_otherwise(relative: float) -> None:
    """Make every linear layer of float32 numbers round otherwise each time, as if each call were another CPU's.

    Args:
        relative: how far results move, as a part of themselves; float32 itself rounds by up to 6e-8.
    """
    linear, generator = torch.nn.functional.linear, torch.Generator().manual_seed(0)

    def rounded(*args: Any, **kwargs: Any) -> torch.Tensor:
        out: torch.Tensor = linear(*args, **kwargs)
        if out.device.type != "cpu" or out.dtype is not torch.float32:
            return out
        return out * (1 + relative * torch.randn(out.shape, generator=generator))

    torch.nn.functional.linear = rounded


if os.environ.get(NOISE):
    round_otherwise(float(os.environ[NOISE]))


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


@pytest.fixture(scope="session")
def magicface_nodes(pack: ModuleType) -> dict[str, Any]:
    """The pack's node classes by id, from the entry point that ComfyUI calls."""

    async def listed() -> list[Any]:
        return await (await pack.comfy_entrypoint()).get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(listed())}


@pytest.fixture(scope="session")
def graph_of(
    pack: ModuleType, magicface_nodes: dict[str, Any], tiny: Callable[[str], tuple[Any, Any, Any]]
) -> Callable[[str], Graph]:
    """`graph_of(family)`: the graph of a small model."""
    from .graph import Graph

    return lambda family: Graph(pack, magicface_nodes, *tiny(family))


@pytest.fixture
def graph(graph_of: Callable[[str], Graph]) -> Graph:
    """The graph of a small SDXL model."""
    return graph_of("sdxl")


@pytest.fixture
def as_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What ComfyUI sets up around every node: no gradients, a folder for previews; but no progress bars here.

    How much memory is free decides what ComfyUI runs together, and so the last bits: here it is always the same.
    """
    import comfy.model_management
    import comfy.utils
    import folder_paths

    gigabytes = 8 * 2**30
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda dev=None, torch_free_too=False: (gigabytes, gigabytes) if torch_free_too else gigabytes,
    )
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", False)
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    with torch.inference_mode():
        yield
