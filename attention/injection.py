"""Injection rules: what each query of a block may attend to beside the target's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from .attend import Attend, joint_attention
from .kv import BlockKV, select


class InjectionRule(Protocol):
    """What queries may attend to, and the attention that does it.

    Attributes:
        labels: (b, n) the concept that each query belongs to, -1 for none, in main memory; None if the rule treats
            all queries alike.
    """

    @property
    def labels(self) -> Tensor | None: ...

    def __call__(
        self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, kv: BlockKV, own: Tensor | None = None
    ) -> Tensor:
        """The block's self-attention with references.

        Args:
            attend: the attention function.
            q, k, v: (b, n, c) the target's cond rows; there are more than n keys where another pack adds some.
            kv: keys and values of the references at this block.
            own: see `joint_attention`.

        Returns:
            (b, n, c).
        """
        ...

    def visible(self, image: int, queries: Tensor, kv: BlockKV) -> list[tuple[Sequence[int], Tensor]]:
        """Group queries by what they may attend to.

        Args:
            image: index in the batch.
            queries: (g,) int64 token indices, in main memory.
            kv: keys and values of the references at this block.

        Returns:
            Concept indices and the queries that may attend to them; together the groups name each query once.
        """
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
        qkv: (b, g, c) queries, and the target's keys and values (b, n', c).
        kv: of the block.
        concepts: indices.
        target_tok: n, the target's tokens.
        own: see `joint_attention`; (b, g, c).

    Returns:
        (b, g, c).
    """
    references = select(kv, concepts, target_tok)
    if references is None:
        return attend(*qkv) if own is None else own
    ref_k, ref_v, bias = references
    return joint_attention(attend, *qkv, ref_k, ref_v, bias.to(qkv[0].dtype), own)
