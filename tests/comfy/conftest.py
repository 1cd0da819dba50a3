"""A real ComfyUI in this process: the folder that MAGICFACE_TEST_COMFYUI names, or one already importable."""

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
    """Make ComfyUI importable; returns the reason if that is impossible, or an empty string."""
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
    """Load the oracle of the method as package `oracle`, as the unit tests do."""
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
# More threads do not speed up models this small, and slow them down on a busy machine. The number of threads affects
# rounding, so it can be set.
torch.set_num_threads(int(os.environ.get(THREADS, "1")))


def add_rounding_noise(relative: float) -> None:
    """Add noise to the results of float32 linear layers, as if each call ran on another CPU.

    Args:
        relative: standard deviation of the noise, relative to each result. float32 itself rounds by up to 6e-8.
    """
    linear, generator = torch.nn.functional.linear, torch.Generator().manual_seed(0)

    def rounded(*args: Any, **kwargs: Any) -> torch.Tensor:
        out: torch.Tensor = linear(*args, **kwargs)
        if out.device.type != "cpu" or out.dtype is not torch.float32:
            return out
        return out * (1 + relative * torch.randn(out.shape, generator=generator))

    torch.nn.functional.linear = rounded


if os.environ.get(NOISE):
    add_rounding_noise(float(os.environ[NOISE]))


class SkippedModule(pytest.Module):
    """A test file that is skipped without being imported, since its imports would fail."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        """Skip the file."""
        pytest.skip(MISSING, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip this folder's test files if there is no ComfyUI."""
    return SkippedModule.from_parent(parent, path=module_path) if MISSING else None


@pytest.fixture(scope="session")
def tiny_model() -> ModuleType:
    """The module that builds small models."""
    return importlib.import_module("devtools.tiny_pack.tiny_model")


@pytest.fixture(scope="session")
def tiny(tiny_model: ModuleType) -> Callable[[str], tuple[Any, Any, Any]]:
    """`tiny(family)` -> (model, clip, vae), built once per session: clone them before changing them."""
    return lru_cache(tiny_model.load)


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """This checkout as the package `magicface`, as ComfyUI loads a custom node folder."""
    return incore.load_pack()


@pytest.fixture(scope="session")
def magicface_nodes(pack: ModuleType) -> dict[str, Any]:
    """The pack's node classes by id, as the entry point for ComfyUI lists them."""

    async def list_nodes() -> list[Any]:
        return await (await pack.comfy_entrypoint()).get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(list_nodes())}


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
def as_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: ModuleType) -> Iterator[None]:
    """What ComfyUI sets up around every node: no gradients, a folder for previews; without progress bars.

    ComfyUI batches conds according to free memory, which changes the last bits, so free memory is fixed here. The
    reference cache is empty before and after.
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
    cache = pack.sampling.references.cache.REFERENCE_CACHE
    cache.clear()
    with torch.inference_mode():
        yield
    cache.clear()
