"""A real ComfyUI, and this checkout as the pack it would load, inside the running process."""

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
    """Make `import comfy`, `import nodes` and the rest of ComfyUI work, as `main.py` would have them.

    Call it before anything imports `comfy`; a second call changes nothing. ComfyUI's input, output
    and user folders are temporary ones, so its tree is never written to.

    Args:
        core: a ComfyUI folder. By default the one that MAGICFACE_TEST_COMFYUI names, else the newest
            of the managed set-up.

    Returns:
        The folder of the ComfyUI in use.

    Raises:
        RuntimeError: another ComfyUI was imported before.
    """
    core = Path(core or os.environ.get(CHOICE) or environment.comfyui("newest")).resolve()
    loaded = sys.modules.get("comfy.cli_args")
    if loaded is not None:
        inside = Path(str(loaded.__file__)).resolve().parent.parent
        if inside != core:
            raise RuntimeError(f"ComfyUI of {inside} is loaded already, {core} cannot be loaded beside it")
        return core
    # First, before the checkout: `import nodes` must be ComfyUI's, not the pack's folder of that name.
    sys.path.insert(0, str(core))
    base = tempfile.mkdtemp(prefix="magicface-incore-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    _parse_arguments(["--use-pytorch-cross-attention", "--base-directory", base])
    return core


def _parse_arguments(arguments: list[str]) -> None:
    """Have ComfyUI read these command line arguments, once and for all, as it does when imported."""
    import torch

    if not torch.cuda.is_available():
        arguments = ["--cpu", *arguments]
    kept = sys.argv
    sys.argv = ["main.py", *arguments]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.cli_args")
    finally:
        sys.argv = kept


def load_pack(root: Path = ROOT) -> ModuleType:
    """The checkout as package `magicface`, whatever its folder is called.

    After `prepare` its nodes are loaded as well, and with them all they use: `load_pack().sampling.method`
    works. Without a ComfyUI only what needs none can be imported, by name: `magicface.attention.rsa`.
    """
    module = sys.modules.get(PACK) or _load(root)
    if "comfy.cli_args" in sys.modules:
        importlib.import_module(f"{PACK}.nodes")
    return module


def _load(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(PACK, root / "__init__.py", submodule_search_locations=[str(root)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{root} is no Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[PACK]
        raise
    return module
