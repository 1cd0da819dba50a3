"""Who else acts in the attention of the blocks that the method uses: for the log, for strict runs and for errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..attention.blocks import Block

_ATTENTION = ("attn1", "attn2")
_PATCHES = ("attn1_patch", "attn1_output_patch", "middle_patch", "attn2_patch", "attn2_output_patch")


def neighbours(transformer_options: Mapping[str, Any], blocks: Sequence[Block]) -> list[str]:
    """Callables of other nodes that act in these blocks' attention, each with what it does there.

    Args:
        transformer_options: a model's, or one UNet call's before the method patches it.
        blocks: those to look at.
    """
    found = []
    override = transformer_options.get("optimized_attention_override")
    if override is not None:
        found.append(f"{name_of(override)} as the attention of all blocks")
    for kind in _PATCHES:
        found += [f"{name_of(patch)} as {kind}" for patch in transformer_options.get("patches", {}).get(kind, ())]
    for kind in _ATTENTION:
        entries = transformer_options.get("patches_replace", {}).get(kind, {})
        where: dict[str, list[str]] = {}
        for block in blocks:
            standing = entries.get(block.key) or entries.get(block.key[:2])
            if standing is not None:
                where.setdefault(name_of(standing), []).append(str(block))
        found += [f"{name} in place of {kind} in {', '.join(places)}" for name, places in where.items()]
    return found


def name_of(patch: Callable[..., Any]) -> str:
    """A callable's name and module, an object's class and module."""
    inner = getattr(patch, "func", patch)  # of functools.partial
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__qualname__.replace('<locals>.', '')} ({named.__module__})"
