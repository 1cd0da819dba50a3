"""The attention that the user's ComfyUI runs, in the form that attention/ takes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_split, attention_sub_quad, get_attn_precision, optimized_attention
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..attention.attend import TorchAttend

# These cut the scores to what memory there is, and leave a mask of one row as it is.
_IN_CHUNKS = (attention_split, attention_sub_quad)
# cuDNN's kernel is planned for each number of queries and keys, which can take longer than an evaluation, and regions
# and references have many. (Flash kernels take no mask.)
_UNPLANNED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class HostAttend:
    """`attention.attend.Attend` by ComfyUI's own functions, so that the user's backend stays in force.

    With a bias that is so of backends that work in chunks, for they are the choice where torch has no kernel but its
    plain one, and all scores at once would be n x m. Of the others only torch's takes a broadcast bias as it is: they,
    overrides among them, ignore, refuse or expand it.

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
        if optimized_attention in _IN_CHUNKS and q.device.type != "cpu":
            # They look for the highest score before they add the mask, so it may raise none.
            mask = (bias - bias.max())[None, None, None]
            return optimized_attention(q, k, v, self.heads, mask=mask, attn_precision=self._precision)
        # torch does not raise the precision itself where ComfyUI or the user asks for that.
        dtype = q.dtype
        if get_attn_precision(self._precision, dtype) is torch.float32:
            q, k, v, bias = q.float(), k.float(), v.float(), bias.float()
        # What torch may choose from is told to the whole process: not where devices work in threads.
        alone = "multigpu_thread_device" not in self._options
        with sdpa_kernel(_UNPLANNED) if q.device.type == "cuda" and alone else nullcontext():
            return TorchAttend(self.heads)(q, k, v, bias).to(dtype)
