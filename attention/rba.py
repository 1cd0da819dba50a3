"""Region-grouped Blend Attention: each region looks at its own reference (stage 2, feature injection)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .attend import Attend, EvenLengths, attend_also_to
from .references import ConceptTokens

_LENGTHS = 16  # that a region's queries may have; they grow by half a step in the mean
RegionGroups = Sequence[tuple[int, Tensor]]
"""One image's queries grouped by region: (concept index or -1 for none, (g,) int64 token indices)."""


def region_grouped_blend_attention(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    concepts: Sequence[ConceptTokens | None],
    groups: Sequence[RegionGroups],
    own: Tensor | None = None,
) -> Tensor:
    """A query in R_i: softmax([s Q K^T | s Q K_i^T + b_i]) [V ; V_i]; a query in no region: ordinary attention.

    Args:
        attend: the attention function.
        q, k, v: (b, n, c) the target's cond rows.
        concepts: one entry a concept; the region of a None looks at itself only.
        groups: for each of the b images its grouped queries; together they name each of the n tokens once.
        own: see `attend_also_to`.

    Returns:
        (b, n, c).

    Source: METHOD 4.
    """
    attend = EvenLengths(attend, max(1, q.shape[1] // _LENGTHS))
    out = torch.empty_like(q) if own is None else own.clone()
    for image, regions in enumerate(groups):
        q_i, k_i, v_i = q[image : image + 1], k[image : image + 1], v[image : image + 1]
        for concept_index, tokens in regions:
            concept = concepts[concept_index] if concept_index >= 0 else None
            queries = q_i[:, tokens]
            if concept is not None:
                bias = concept.bias_for(q.shape[1], q.dtype)
                own_part = None if own is None else own[image : image + 1, tokens]
                blended = attend_also_to(attend, queries, k_i, v_i, concept.k, concept.v, bias, own_part)
                out[image, tokens] = blended[0]
            elif own is None:
                out[image, tokens] = attend(queries, k_i, v_i)[0]
    return out
