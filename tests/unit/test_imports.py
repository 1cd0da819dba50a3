"""What may import what, and what no file of the pack may do: read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("attention", "sampling", "nodes")
PURE = ("prompt", "noise", "recording", "method", "roles", "segmenter")
MOST_LINES = 300


def sources(*folders: str) -> list[Path]:
    """The Python files of folders of the pack, the pack's own `__init__` with them if all are asked for."""
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    return [*files, ROOT / "__init__.py"] if folders == LAYERS else files


def imported(file: Path, tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that a file imports anywhere in it, the pack's own as `magicface.…`."""
    package = ["magicface", *file.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def imports_of(file: Path) -> list[str]:
    return list(imported(file, ast.parse(file.read_text(encoding="utf-8"))))


def layer_of(module: str) -> str | None:
    """The pack's layer that a module lies in."""
    parts = module.split(".")
    return (parts[1] if len(parts) > 1 else "") if parts[0] == "magicface" else None


def test_the_reader_of_imports_sees_every_kind() -> None:
    text = (
        "import os, a.b\nfrom . import one\nfrom .two import x\nfrom z import w\ndef f():\n    from ..sampling import y"
    )
    found = list(imported(ROOT / "attention" / "file.py", ast.parse(text)))
    assert sorted(found) == [
        "a.b",
        "magicface.attention.one",
        "magicface.attention.two.x",
        "magicface.sampling.y",
        "os",
        "z.w",
    ]
    assert [len(sources(layer)) > 5 for layer in LAYERS] == [True] * 3


@pytest.mark.parametrize("file", sources("attention"), ids=lambda file: file.name)
def test_attention_knows_torch_and_einops_only(file: Path) -> None:
    for module in imports_of(file):
        top = module.split(".")[0]
        allowed = top in {"torch", "einops"} or top in sys.stdlib_module_names or layer_of(module) == "attention"
        assert allowed, f"{file.name} imports {module}"


@pytest.mark.parametrize("file", sources(*LAYERS), ids=lambda file: "/".join(file.parts[-2:]))
def test_arrows_point_one_way(file: Path) -> None:
    """`__init__` -> nodes -> sampling -> attention, and nobody reaches for what is no part of the pack."""
    own = file.relative_to(ROOT).parts[0]
    below = LAYERS[: LAYERS.index(own) + 1] if own in LAYERS else ("nodes",)
    for module in imports_of(file):
        if module.split(".")[0] == "magicface":
            assert layer_of(module) in below, f"{file.name} imports {module}"
        elsewhere = {*LAYERS, "devtools", "lab", "tests"}
        assert module.split(".")[0] not in elsewhere, f"{file.name} imports {module} absolutely"


@pytest.mark.parametrize("file", sources(*LAYERS), ids=lambda file: "/".join(file.parts[-2:]))
def test_nothing_is_printed_or_evaluated(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            assert node.id not in {"print", "eval", "exec", "__import__"}, f"line {node.lineno}: {node.id}"
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"line {node.lineno}: import *"


@pytest.mark.parametrize("file", sources(*LAYERS), ids=lambda file: "/".join(file.parts[-2:]))
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_method_needs_no_comfyui() -> None:
    """All of attention/ and what of sampling/ is plain data, in a Python where ComfyUI and PIL cannot be imported."""
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
    """Here, `nodes` must not be the pack's folder: in ComfyUI that name is ComfyUI's."""
    assert "magicface.nodes" not in sys.modules
    found = sys.modules.get("nodes")
    assert found is None or str(ROOT / "nodes") not in str(getattr(found, "__path__", ""))
