"""Patches of other nodes in the attention of the blocks that the method uses: for the log, strict runs and errors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...attention.blocks import Block
from ..families.unet import ATTENTION_KINDS, present_patch

_PATCHES = ("attn1_patch", "attn1_output_patch", "middle_patch", "attn2_patch", "attn2_output_patch")


def other_patches(transformer_options: Mapping[str, Any], blocks: Sequence[Block]) -> list[str]:
    """Name the callables of other nodes that act in these blocks' attention, and what each does there.

    The options are those of a model, or of one UNet call before the method patches it.
    """
    found = []
    override = transformer_options.get("optimized_attention_override")
    if override is not None:
        found.append(f"{name_of(override)} as the attention of all blocks")
    for kind in _PATCHES:
        found += [f"{name_of(patch)} as {kind}" for patch in transformer_options.get("patches", {}).get(kind, ())]
    for kind in ATTENTION_KINDS:
        where: dict[str, list[str]] = {}
        for block in blocks:
            patch = present_patch(transformer_options, kind, block)
            if patch is not None:
                where.setdefault(name_of(patch), []).append(str(block))
        found += [f"{name} in place of {kind} in {', '.join(names)}" for name, names in where.items()]
    return found


def replaced_forwards(unet: Any) -> list[Callable[..., Any]]:
    """The forwards of a UNet's modules that are not those of their classes."""
    found = []
    for module in unet.modules():
        forward = vars(module).get("forward")
        # ComfyUI puts back what it replaced as an attribute of the module itself.
        if forward is not None and getattr(forward, "__func__", None) is not type(module).forward:
            found.append(forward)
    return found


def name_of(patch: Callable[..., Any]) -> str:
    """A callable's name and module; an object's class and module."""
    inner = getattr(patch, "func", patch)  # of functools.partial
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__qualname__.replace('<locals>.', '')} ({named.__module__})"
