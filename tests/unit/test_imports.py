"""Forbidden code, and modules that run without ComfyUI. The rules for imports are in pyproject.toml (importlinter)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("attention", "sampling", "nodes")
# Modules of sampling/ that can be imported without ComfyUI.
PURE = (
    "method",
    "latent_store",
    "errors",
    "snapshots",
    "conditioning.prompt",
    "conditioning.roles",
    "families.clip",
    "references.cache",
    "references.identity",
    "references.noise",
    "regions.history",
    "regions.index",
    "regions.segmenter",
    "regions.source",
)
MAX_LINES = 250
# Node ids as they are written in the schemas in nodes/.
NODE_ID = re.compile(r'node_id="(MagicFace[A-Z]\w+)"')


def sources(*folders: str) -> list[Path]:
    """The Python files in folders of the pack; with the pack's own `__init__` if all folders are requested."""
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    return [*files, ROOT / "__init__.py"] if folders == LAYERS else files


@pytest.mark.parametrize("file", sources(*LAYERS), ids=lambda file: "/".join(file.parts[-2:]))
def test_nothing_is_printed_or_evaluated(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            assert node.id not in {"print", "eval", "exec", "__import__"}, f"line {node.lineno}: {node.id}"
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"line {node.lineno}: import *"


@pytest.mark.parametrize("file", sources(*LAYERS), ids=lambda file: "/".join(file.parts[-2:]))
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def node_ids() -> set[str]:
    return {name for file in sources("nodes") for name in NODE_ID.findall(file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("file", sources("attention", "sampling"), ids=lambda file: "/".join(file.parts[-2:]))
def test_node_ids_are_written_in_nodes_only(file: Path) -> None:
    found = re.findall(r"MagicFace[A-Z]\w+", file.read_text(encoding="utf-8"))
    assert len(node_ids()) == 11 and not node_ids() & set(found)


def test_the_method_needs_no_comfyui() -> None:
    """All of attention/ and parts of sampling/, in a Python where ComfyUI and PIL cannot be imported."""
    modules = [f"magicface.attention.{file.stem}" for file in sources("attention") if file.stem != "__init__"]
    modules += [f"magicface.sampling.{name}" for name in PURE]
    script = f"""
import importlib, importlib.util, sys
for name in ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "PIL"):
    sys.modules[name] = None
spec = importlib.util.spec_from_file_location(
    "magicface", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}]
)
sys.modules["magicface"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["magicface"])
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_pack_is_loaded_without_its_nodes() -> None:
    """`nodes` must not be the pack's folder: in ComfyUI that name belongs to ComfyUI."""
    assert "magicface.nodes" not in sys.modules
    found = sys.modules.get("nodes")
    assert found is None or str(ROOT / "nodes") not in str(getattr(found, "__path__", ""))
