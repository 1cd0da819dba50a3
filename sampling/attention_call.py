"""The attention that the user's ComfyUI runs, in the form that attention/ takes."""

from __future__ import annotations

from typing import Any

from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from torch import Tensor


class HostAttend:
    """`attention.attend.Attend` by ComfyUI's own functions, so that backend and overrides stay in force.

    Args:
        extra_options: what ComfyUI hands to an attention patch.
    """

    def __init__(self, extra_options: dict[str, Any]) -> None:
        self.heads: int = extra_options["n_heads"]
        self._common = {"attn_precision": extra_options["attn_precision"], "transformer_options": extra_options}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is None:
            return optimized_attention(q, k, v, self.heads, **self._common)
        # Of the backends only torch's takes a broadcast bias as it is: others ignore, refuse or expand it.
        return attention_pytorch(q, k, v, self.heads, mask=bias[None, None, None], **self._common)
