"""The attention function that everything else is given, and its plain torch form."""

from __future__ import annotations

from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention


class Attend(Protocol):
    """Multi-head attention over channel-last tokens: whatever backend the host uses."""

    heads: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt(d) + bias) v, for each head.

        Args:
            q: (b, n, c) queries.
            k: (b, m, c) keys.
            v: (b, m, c) values.
            bias: (m,) added to every query's scores, or None.

        Returns:
            (b, n, c), q's dtype.
        """
        ...


class TorchAttend:
    """`Attend` by torch's own scaled dot product attention."""

    def __init__(self, heads: int) -> None:
        self.heads = heads

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=self.heads) for x in (q, k, v))
        mask = None if bias is None else bias.to(q.dtype)[None, None, None]
        return rearrange(scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h n d -> b n (h d)")


class EvenLengths:
    """`Attend` for any number of queries: filled up to a multiple of a step, so that few lengths occur.

    Kernels that are planned or compiled for a length would be so anew for each.

    Args:
        attend: the attention function.
        step: the number of queries is made a multiple of it.
    """

    def __init__(self, attend: Attend, step: int) -> None:
        self.heads = attend.heads
        self._attend, self._step = attend, step

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        filled = pad(q, (0, 0, 0, -q.shape[1] % self._step))
        return self._attend(filled, k, v, bias)[:, : q.shape[1]]


def attend_also_to(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ref_k: Tensor,
    ref_v: Tensor,
    ref_bias: Tensor,
    own: Tensor | None = None,
) -> Tensor:
    """softmax([s q k^T | s q ref_k^T + ref_bias]) [v ; ref_v]: the target's tokens and a reference's in one softmax.

    Args:
        attend: the attention function.
        q: (b, n, c) queries of the target.
        k, v: (b, n', c) the target's own keys and values.
        ref_k, ref_v: (1, m, c) reference keys and values, shared by the batch.
        ref_bias: (m,) weighted mask of the reference tokens.
        own: (b, n, c), what another attention made of (q, k, v) and shall stand for the target's own part. The
            references then take the share of the softmax that they would have beside ordinary attention.

    Returns:
        (b, n, c).

    Source: METHOD 2 and 4, where RSA and RBA differ only in which references a query is given.
    """
    b = q.shape[0]
    ref_k, ref_v = ref_k.expand(b, -1, -1), ref_v.expand(b, -1, -1)
    keys = torch.cat((k, ref_k), dim=1)
    bias = torch.cat((ref_bias.new_zeros(k.shape[1]), ref_bias))
    if own is None:
        return attend(q, keys, torch.cat((v, ref_v), dim=1), bias)
    from_references = attend(q, keys, torch.cat((torch.zeros_like(v), ref_v), dim=1), bias)
    share = attend(q, keys, torch.cat((torch.zeros_like(v), torch.ones_like(ref_v)), dim=1), bias)
    return own * (1 - share) + from_references
