"""Reference-aware Self-Attention (RSA): every query attends to all references (stage 1, layout)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .attend import Attend
from .injection import inject
from .kv import BlockKV


@dataclass(frozen=True)
class ReferenceAwareSelfAttention:
    """softmax([s Q K^T | s Q K_1^T + b_1 | ... | s Q K_N^T + b_N]) [V ; V_1 ; ... ; V_N].

    An `InjectionRule`.

    Source: arXiv 2408.07433, section 3 (RSA); docs/method.md#layout-stage.
    """

    labels: None = None

    def __call__(
        self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, kv: BlockKV, own: Tensor | None = None
    ) -> Tensor:
        return inject(attend, (q, k, v), kv, range(len(kv)), q.shape[1], own)

    def visible(self, image: int, queries: Tensor, kv: BlockKV) -> list[tuple[Sequence[int], Tensor]]:
        return [(range(len(kv)), queries)]

    def compact(self) -> ReferenceAwareSelfAttention:
        return self
