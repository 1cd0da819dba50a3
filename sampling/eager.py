"""torch.compile, put aside for a run of the method."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

log = logging.getLogger(__name__)
_BY_COMFYUI = "torch.compile"  # the key of its wrapper


def uncompiled(model: Any, model_options: dict[str, Any]) -> AbstractContextManager[None]:
    """Let a compiled UNet run as it was written.

    ComfyUI has compiled code not check the transformer options again, where patches stand: it would go on with those of
    another call, or with none.

    Args:
        model: ComfyUI's ModelPatcher.
        model_options: the run's.

    Raises:
        ValueError: it is compiled, and this torch cannot put that aside.
    """
    if not is_compiled(model, model_options):
        return nullcontext()
    if not hasattr(torch.compiler, "set_stance"):
        raise ValueError(
            f"MagicFaceApply: model: is compiled by torch.compile, which torch {torch.__version__} cannot put aside for"
            " a run; use torch 2.6 or newer, or remove the node that compiles"
        )
    log.info("MagicFace: torch.compile is put aside for this run.")
    return torch.compiler.set_stance("force_eager")


def is_compiled(model: Any, model_options: dict[str, Any]) -> bool:
    """Whether any part of the UNet is compiled, by ComfyUI's node or by another's object patches."""
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {})
    if _BY_COMFYUI in wrappers.get(WrappersMP.APPLY_MODEL, {}):
        return True
    parts = [*model.model.diffusion_model.modules(), *model.object_patches.values()]
    return any(hasattr(part, "_orig_mod") for part in parts)
