"""A real ComfyUI in the running process, with this checkout as the pack that it would load."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from . import environment
from .pins import ROOT

PACK = "magicface"
CHOICE = "MAGICFACE_TEST_COMFYUI"


def prepare(core: Path | None = None) -> Path:
    """Make `import comfy`, `import nodes` and the other modules of ComfyUI work as they do for its `main.py`.

    Call it before anything imports `comfy`; a second call changes nothing. ComfyUI's input, output and user folders are
    temporary, so nothing is written to its own folder.

    Args:
        core: a ComfyUI folder; by default the one that MAGICFACE_TEST_COMFYUI names, or the newest of the set-up.

    Returns:
        The folder of the ComfyUI in use.

    Raises:
        RuntimeError: another ComfyUI is imported already.
    """
    core = Path(core or os.environ.get(CHOICE) or environment.comfyui("newest")).resolve()
    loaded = sys.modules.get("comfy.cli_args")
    if loaded is not None:
        inside = Path(str(loaded.__file__)).resolve().parent.parent
        if inside != core:
            raise RuntimeError(f"The ComfyUI in {inside} is loaded already; {core} cannot be loaded too")
        return core
    # First, before the checkout: `import nodes` must be ComfyUI's, not the pack's folder of that name.
    sys.path.insert(0, str(core))
    base = tempfile.mkdtemp(prefix="magicface-incore-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    _parse_arguments(["--use-pytorch-cross-attention", "--base-directory", base])
    return core


def _parse_arguments(arguments: list[str]) -> None:
    """Let ComfyUI parse these command line arguments, which it does once, when it is imported."""
    import torch

    if not torch.cuda.is_available():
        arguments = ["--cpu", *arguments]
    own_arguments = sys.argv
    sys.argv = ["main.py", *arguments]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.cli_args")
    finally:
        sys.argv = own_arguments


def load_pack(root: Path = ROOT) -> ModuleType:
    """Import the checkout as the package `magicface`, whatever the name of its folder.

    After `prepare` its nodes are imported too, and with them all that they use, so that `load_pack().sampling.method`
    works. Without a ComfyUI, import by name what does not need one, such as `magicface.attention.injection`.
    """
    module = sys.modules.get(PACK) or _load(root)
    if "comfy.cli_args" in sys.modules:
        importlib.import_module(f"{PACK}.nodes")
    return module


def _load(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(PACK, root / "__init__.py", submodule_search_locations=[str(root)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{root} is not a Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[PACK]
        raise
    return module
