"""Switching torch.compile off during a run."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..errors import InputError

log = logging.getLogger(__name__)
_COMFYUI_KEY = "torch.compile"  # of the wrapper of ComfyUI's node


def without_compile(model: Any, model_options: dict[str, Any]) -> AbstractContextManager[None]:
    """A context in which a compiled UNet runs uncompiled.

    ComfyUI's compiled code does not check the transformer options again, which hold the patches: it would use those of
    another call, or none.

    Raises:
        InputError: the model is compiled, and this torch cannot switch that off.
    """
    if not is_compiled(model, model_options):
        return nullcontext()
    if not hasattr(torch.compiler, "set_stance"):
        raise InputError(
            "Apply",
            f"model: is compiled by torch.compile, which torch {torch.__version__} cannot switch off for a run; use"
            " torch 2.6 or newer, or remove the node that compiles",
        )
    log.info("MagicFace: torch.compile is switched off for this run.")
    return torch.compiler.set_stance("force_eager")


def is_compiled(model: Any, model_options: dict[str, Any]) -> bool:
    """Whether any part of the UNet is compiled, by ComfyUI's node or by another's object patches."""
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {})
    if _COMFYUI_KEY in wrappers.get(WrappersMP.APPLY_MODEL, {}):
        return True
    parts = [*model.model.diffusion_model.modules(), *model.object_patches.values()]
    return any(hasattr(part, "_orig_mod") for part in parts)
