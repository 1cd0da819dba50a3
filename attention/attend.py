"""The attention function that the method is given, and its plain torch form."""

from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention


class Attend(Protocol):
    """Multi-head attention over channel-last tokens, by whatever backend the host uses."""

    heads: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt(d) + bias) v for each head.

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


class PaddedQueries:
    """`Attend` with the number of queries padded to a multiple of a step.

    Some kernels are compiled or planned for each number of queries; padding keeps these numbers few.
    """

    def __init__(self, attend: Attend, step: int) -> None:
        self.heads = attend.heads
        self._attend, self._step = attend, step

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        padded = pad(q, (0, 0, 0, -q.shape[1] % self._step))
        return self._attend(padded, k, v, bias)[:, : q.shape[1]]


def joint_attention(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ref_k: Tensor,
    ref_v: Tensor,
    ref_bias: Tensor,
    own: Tensor | None = None,
) -> Tensor:
    """softmax([s q k^T | s q ref_k^T + ref_bias]) [v ; ref_v]: one softmax over the target's and a reference's tokens.

    Args:
        attend: the attention function.
        q: (b, n, c) queries of the target.
        k, v: (b, n', c) the target's own keys and values.
        ref_k, ref_v: (1, m, c) reference keys and values, shared by the batch.
        ref_bias: (m,) bias of the reference tokens, q's dtype.
        own: (b, n, c) what another attention made of (q, k, v), to be used as the target's own part. The references
            then get the share of the softmax that they would have beside ordinary attention.

    Returns:
        (b, n, c).

    Source: docs/method.md#layout-stage and docs/method.md#blend-stage, which differ only in what a query may attend to.
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
