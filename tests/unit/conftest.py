"""Loads the pack as package `magicface`, without ComfyUI, whatever the name of the checkout's folder.

Test files are imported by path, so modules that they share are loaded by path too, under fixed names. sys.path does not
change: `import nodes` must never find the pack's own folder of that name.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch
from hypothesis import settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def load(name: str, file: Path, folder: Path | None = None) -> None:
    """Import a file under a name, once; with `folder`, as a package whose modules are there."""
    if name in sys.modules:
        return
    folders = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


# The same examples on every run and machine, and no time limit, since the machine may be busy.
settings.register_profile("unit", max_examples=80, deadline=None, derandomize=True, database=None)
settings.load_profile("unit")
torch.set_num_threads(int(os.environ.get("MAGICFACE_TEST_THREADS", "1")))

load("magicface", ROOT / "__init__.py", ROOT)
load("oracle", HERE.parent / "oracle" / "__init__.py", HERE.parent / "oracle")
load("scenes", HERE / "scenes.py")
