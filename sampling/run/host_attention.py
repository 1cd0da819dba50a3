"""The attention of the user's ComfyUI, as attention/ takes it."""

from contextlib import nullcontext
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_split, attention_sub_quad, get_attn_precision, optimized_attention
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...attention.attend import TorchAttend

# These compute the scores in chunks that fit into memory, and take a mask of one row as it is.
_CHUNKED = (attention_split, attention_sub_quad)
# Without cuDNN: its kernel is planned for each number of queries and keys, which can take longer than an evaluation,
# and regions and references have many. (Flash kernels take no mask.)
_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class HostAttention:
    """`attention.attend.Attend` by ComfyUI's own functions, so that the user's choice of backend holds.

    With a bias, ComfyUI's attention is used only if it works in chunks: it does so where torch would compute all n x m
    scores at once. Other backends, overrides among them, ignore, refuse or expand a broadcast bias; torch's does not.
    The extra options are those that ComfyUI hands to an attention patch.
    """

    def __init__(self, extra_options: dict[str, Any]) -> None:
        self.heads: int = extra_options["n_heads"]
        self._precision = extra_options.get("attn_precision")  # older copies of a block's forward leave it out
        self._options = extra_options

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is None:
            return optimized_attention(
                q, k, v, self.heads, attn_precision=self._precision, transformer_options=self._options
            )
        if optimized_attention in _CHUNKED and q.device.type != "cpu":
            # They find the maximum of the scores before they add the mask, so the mask must not be positive.
            mask = (bias - bias.max())[None, None, None]
            return optimized_attention(q, k, v, self.heads, mask=mask, attn_precision=self._precision)
        # torch does not raise the precision itself where ComfyUI or the user asks for that.
        dtype = q.dtype
        if get_attn_precision(self._precision, dtype) is torch.float32:
            q, k, v, bias = q.float(), k.float(), v.float(), bias.float()
        # sdpa_kernel holds for the whole process, so it is not used where several devices work in threads.
        single_device = "multigpu_thread_device" not in self._options
        with sdpa_kernel(_KERNELS) if q.device.type == "cuda" and single_device else nullcontext():
            return TorchAttend(self.heads)(q, k, v, bias).to(dtype)
