"""Injection rules: which concepts each query of a block may attend to beside the target's own tokens. RSA and RBA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attend import Attend, PaddedQueries, joint_attention
from .device import to_device
from .kv import BlockKV, select
from .regions import QueryGroups, group_queries

# Queries of a group are padded to one of about this many lengths, which costs half a step on average.
_LENGTHS = 16


@dataclass(frozen=True, eq=False)
class Fade:
    """Where the effect of references fades out: the output is mixed with ordinary attention.

    Attributes:
        shares: (b, n) in 0..1, how much of a query's output is that with references; on the device of the attention.
        tokens: for each image the queries with a share below 1, (g,) int64.
    """

    shares: Tensor
    tokens: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class InjectionRule:
    """Which concepts queries may attend to, and the self-attention that does it.

    Attributes:
        labels: (b, n) integer label of each query, -1 for queries that see no concept, in main memory; None if every
            query may attend to every concept.
        groups: each image's queries by label, on the device of the attention.
        concepts: for each label the indices of its concepts; None if a label is the index of its one concept.
        fade: where references count in part.
    """

    labels: Tensor | None = None
    groups: Sequence[QueryGroups] = ()
    concepts: Sequence[Sequence[int]] | None = None
    fade: Fade | None = None

    def __call__(
        self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, kv: BlockKV, own: Tensor | None = None
    ) -> Tensor:
        """A block's self-attention with references.

        Args:
            attend: the attention function.
            q, k, v: (b, n, c) the target's cond rows. There are more than n keys if another pack appends some.
            kv: keys and values of the references at this block.
            own: see `joint_attention`.

        Returns:
            (b, n, c).
        """
        n = q.shape[1]
        if self.labels is None:
            return _inject(attend, q, k, v, kv, range(len(kv)), n, own)
        attend = PaddedQueries(attend, max(1, n // _LENGTHS))
        out = torch.empty_like(q if own is None else own)
        for image, groups in enumerate(self.groups):
            row = slice(image, image + 1)
            for label, tokens in groups:
                part = None if own is None else own[row, tokens]
                seen = self._seen(label)
                out[image, tokens] = _inject(attend, q[row, tokens], k[row], v[row], kv, seen, n, part)[0]
            if self.fade is not None and len(self.fade.tokens[image]):
                tokens = self.fade.tokens[image]
                plain = attend(q[row, tokens], k[row], v[row]) if own is None else own[row, tokens]
                share = self.fade.shares[image, tokens, None].to(out)
                out[image, tokens] = torch.lerp(plain[0], out[image, tokens], share)
        return out

    def visible(self, image: int, queries: Tensor, kv: BlockKV) -> list[tuple[Sequence[int], Tensor]]:
        """Group some queries (g,) of one image by the indices of the concepts that they may attend to."""
        if self.labels is None:
            return [(range(len(kv)), queries)]
        labels = self.labels[image, queries]
        return [(self._seen(int(label)), queries[labels == label]) for label in labels.unique()]

    def _seen(self, label: int) -> Sequence[int]:
        if label < 0:
            return ()
        return (label,) if self.concepts is None else self.concepts[label]


RSA = InjectionRule()
"""Reference-aware Self-Attention: every query attends to all references (layout stage).

softmax([s Q K^T | s Q K_1^T + b_1 | ... | s Q K_N^T + b_N]) [V ; V_1 ; ... ; V_N]

Source: arXiv 2408.07433, section 3; docs/method.md#layout-stage.
"""


def rba(labels: Tensor, device: torch.device, shares: Tensor | None = None) -> InjectionRule:
    """Region-grouped Blend Attention: each query attends to the references of its region (blend stage).

    A query in R_i: softmax([s Q K^T | s Q K_i^T + b_i]) [V ; V_i]; a query in no region: ordinary attention.

    Args:
        labels: (b, n) int64 the concept that each query belongs to, or -1, in main memory.
        device: of the attention.
        shares: see `fading`.

    Source: arXiv 2408.07433, section 3; docs/method.md#blend-stage.
    """
    return InjectionRule(labels, group_queries(labels, device), fade=fading(shares, device))


def restricted(visible: Tensor, shares: Tensor | None, device: torch.device) -> InjectionRule:
    """RSA in which some concepts are seen from a part of the picture only.

    Args:
        visible: (N, b, n) bool in main memory, whether a query may attend to a concept.
        shares: see `fading`.
        device: of the attention.
    """
    powers = 2 ** torch.arange(len(visible))
    codes, labels = torch.unique((visible.long() * powers[:, None, None]).sum(dim=0), return_inverse=True)
    concepts = [[index for index in range(len(visible)) if int(code) >> index & 1] for code in codes]
    return InjectionRule(labels, group_queries(labels, device), concepts, fading(shares, device))


def fading(shares: Tensor | None, device: torch.device) -> Fade | None:
    """A fade by shares (b, n) in 0..1 in main memory; None if all of them are 1."""
    if shares is None or bool((shares >= 1).all()):
        return None
    return Fade(to_device(shares, device), [to_device(torch.nonzero(row < 1).flatten(), device) for row in shares])


def _inject(
    attend: Attend, q: Tensor, k: Tensor, v: Tensor, kv: BlockKV, concepts: Sequence[int], n: int, own: Tensor | None
) -> Tensor:
    """Attention of some queries (b, g, c) to some concepts; ordinary attention if none of these takes part."""
    references = select(kv, concepts, n)
    if references is None:
        return attend(q, k, v) if own is None else own
    ref_k, ref_v, bias = references
    return joint_attention(attend, q, k, v, ref_k, ref_v, bias.to(q.dtype), own)
