"""Region-grouped Blend Attention (RBA): each query attends to the reference of its region (stage 2, blend)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attend import Attend, PaddedQueries
from .injection import inject
from .kv import BlockKV
from .regions import QueryGroups, group_queries

# Queries of a region are padded to one of about this many lengths, which costs half a step on average.
_LENGTHS = 16


@dataclass(frozen=True, eq=False)
class RegionGroupedBlendAttention:
    """A query in R_i: softmax([s Q K^T | s Q K_i^T + b_i]) [V ; V_i]; a query in no region: ordinary attention.

    An `InjectionRule`.

    Attributes:
        labels: (b, n) the concept that each query belongs to, or -1, in main memory.
        groups: the queries of each image by region, on the device of the attention.

    Source: arXiv 2408.07433, section 3 (RBA); docs/method.md#blend-stage.
    """

    labels: Tensor
    groups: Sequence[QueryGroups]

    @staticmethod
    def by_region(labels: Tensor, device: torch.device) -> RegionGroupedBlendAttention:
        """The rule for labels (b, n) int64 in main memory."""
        return RegionGroupedBlendAttention(labels, group_queries(labels, device))

    def __call__(
        self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, kv: BlockKV, own: Tensor | None = None
    ) -> Tensor:
        attend = PaddedQueries(attend, max(1, q.shape[1] // _LENGTHS))
        out = torch.empty_like(q)
        for image, groups in enumerate(self.groups):
            q_i, k_i, v_i = q[image : image + 1], k[image : image + 1], v[image : image + 1]
            for concept, tokens in groups:
                concepts = (concept,) if concept >= 0 else ()
                own_part = None if own is None else own[image : image + 1, tokens]
                out[image, tokens] = inject(attend, (q_i[:, tokens], k_i, v_i), kv, concepts, q.shape[1], own_part)[0]
        return out

    def visible(self, image: int, queries: Tensor, kv: BlockKV) -> list[tuple[Sequence[int], Tensor]]:
        of_queries = self.labels[image, queries]
        return [
            ((int(concept),) if concept >= 0 else (), queries[of_queries == concept]) for concept in of_queries.unique()
        ]

    def compact(self) -> RegionGroupedBlendAttention:
        return RegionGroupedBlendAttention(self.labels.to(torch.int8), ())
