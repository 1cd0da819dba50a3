"""The attention that the user's ComfyUI runs, in the form that attention/ takes."""

from __future__ import annotations

from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch, get_attn_precision, optimized_attention
from torch import Tensor


class HostAttend:
    """`attention.attend.Attend` by ComfyUI's own functions, so that the user's backend stays in force.

    Args:
        extra_options: what ComfyUI hands to an attention patch.
    """

    def __init__(self, extra_options: dict[str, Any]) -> None:
        self.heads: int = extra_options["n_heads"]
        self._precision = extra_options["attn_precision"]
        self._options = extra_options

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is None:
            return optimized_attention(
                q, k, v, self.heads, attn_precision=self._precision, transformer_options=self._options
            )
        # Of the backends only torch's takes a broadcast bias as it is: others, overrides among them, ignore, refuse or
        # expand it. It does not raise the precision itself where ComfyUI or the user asks for that.
        dtype = q.dtype
        if get_attn_precision(self._precision, dtype) is torch.float32:
            q, k, v, bias = q.float(), k.float(), v.float(), bias.float()
        return attention_pytorch(q, k, v, self.heads, mask=bias[None, None, None]).to(dtype)
