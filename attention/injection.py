"""Injection rules: which concepts each query of a block may attend to, beside the target's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from .attend import Attend, joint_attention
from .kv import BlockKV, select


class InjectionRule(Protocol):
    """What queries may attend to, and the attention that does it.

    Attributes:
        labels: (b, n) the concept that each query belongs to or -1, in main memory; None if all queries are alike.
    """

    @property
    def labels(self) -> Tensor | None: ...

    def __call__(
        self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, kv: BlockKV, own: Tensor | None = None
    ) -> Tensor:
        """The block's self-attention (b, n, c) for the target's cond rows; arguments as of `inject`."""
        ...

    def visible(self, image: int, queries: Tensor, kv: BlockKV) -> list[tuple[Sequence[int], Tensor]]:
        """Group some queries (g,) of one image by the indices of the concepts that they may attend to."""
        ...

    def compact(self) -> InjectionRule:
        """A copy for `visible` and `labels` alone, with nothing on a device."""
        ...


def inject(
    attend: Attend,
    qkv: tuple[Tensor, Tensor, Tensor],
    kv: BlockKV,
    concepts: Sequence[int],
    target_tok: int,
    own: Tensor | None,
) -> Tensor:
    """Attention of queries that may attend to some concepts; ordinary attention if none of these takes part.

    Args:
        attend: the attention function.
        qkv: (b, g, c) queries; keys and values (b, n', c) of the target, where n' > n if another pack appends some.
        kv: keys and values of the references at this block.
        concepts: indices of the concepts.
        target_tok: n, the target's tokens.
        own: (b, g, c) see `joint_attention`.

    Returns:
        (b, g, c).
    """
    references = select(kv, concepts, target_tok)
    if references is None:
        return attend(*qkv) if own is None else own
    ref_k, ref_v, bias = references
    return joint_attention(attend, *qkv, ref_k, ref_v, bias.to(qkv[0].dtype), own)
