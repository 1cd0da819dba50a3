"""Reference-aware Self-Attention: the target looks at all references at once (stage 1, semantic layout)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .attend import Attend, attend_also_to
from .references import ConceptTokens


def reference_aware_self_attention(
    attend: Attend, q: Tensor, k: Tensor, v: Tensor, concepts: Sequence[ConceptTokens | None], own: Tensor | None = None
) -> Tensor:
    """softmax([s Q K^T | s Q K_1^T + b_1 | ... | s Q K_N^T + b_N]) [V ; V_1 ; ... ; V_N].

    Args:
        attend: the attention function.
        q, k, v: (b, n, c) the target's cond rows (keys may be more than n where another pack adds some).
        concepts: one entry a concept; None takes no part.
        own: see `attend_also_to`.

    Returns:
        (b, n, c).

    Source: METHOD 2.
    """
    present = [concept for concept in concepts if concept is not None]
    if not present:
        return attend(q, k, v) if own is None else own
    ref_k = torch.cat([concept.k for concept in present], dim=1)
    ref_v = torch.cat([concept.v for concept in present], dim=1)
    bias = torch.cat([concept.bias_for(q.shape[1], q.dtype) for concept in present])
    return attend_also_to(attend, q, k, v, ref_k, ref_v, bias, own)
