"""Keys and values of the references: of one view, of one concept, and of all concepts at one block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .device import to_device
from .masks import TokenMask, reference_bias


@dataclass(frozen=True, eq=False)
class ViewKV:
    """What a block's self-attention computed for one view.

    Attributes:
        k, v: (1, m, c) keys and values of the tokens inside the mask.
        grid: (hh, ww) of the block.
    """

    k: Tensor
    v: Tensor
    grid: tuple[int, int]

    def to(self, device: torch.device) -> ViewKV:
        """The same on another device."""
        return ViewKV(to_device(self.k, device), to_device(self.v, device), self.grid)


@dataclass(frozen=True, eq=False)
class ConceptKV:
    """The views of one concept at one block, joined into one sequence of keys.

    Attributes:
        k, v: (1, m, c) keys and values, the views one after another.
        masks: of each view, which tokens of its grid these are.
        weights: w of each view.
    """

    k: Tensor
    v: Tensor
    masks: tuple[TokenMask, ...]
    weights: tuple[float, ...]

    def to(self, device: torch.device) -> ConceptKV:
        """The same on another device: the conds of one call may run on several."""
        if self.k.device == device:
            return self
        masks = tuple(mask.to(device) for mask in self.masks)
        return ConceptKV(self.k.to(device), self.v.to(device), masks, self.weights)


BlockKV = Sequence[ConceptKV | None]
"""One entry for each concept at one block; None for a concept that takes no part."""


def pool(views: Sequence[tuple[ViewKV, TokenMask, float]]) -> ConceptKV | None:
    """The views of one concept, each with its mask and weight, as one; None if no view has a token inside its mask."""
    if not any(view.k.shape[1] for view, _, _ in views):
        return None
    masks, weights = tuple(mask for _, mask, _ in views), tuple(weight for _, _, weight in views)
    if len(views) == 1:
        return ConceptKV(views[0][0].k, views[0][0].v, masks, weights)
    k, v = (torch.cat(parts, dim=1) for parts in zip(*((view.k, view.v) for view, _, _ in views), strict=True))
    return ConceptKV(k, v, masks, weights)


def select(kv: BlockKV, concepts: Sequence[int], target_tok: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Keys, values and bias of the given concepts, beside `target_tok` tokens of the target.

    Returns:
        (1, m, c), (1, m, c) and (m,) float32; None if none of the concepts takes part.
    """
    chosen = [concept for index in concepts if (concept := kv[index]) is not None]
    biases = [reference_bias(concept.masks, concept.weights, target_tok) for concept in chosen]
    if len(chosen) < 2:
        return (chosen[0].k, chosen[0].v, biases[0]) if chosen else None
    k, v = (torch.cat(parts, dim=1) for parts in zip(*((concept.k, concept.v) for concept in chosen), strict=True))
    return k, v, torch.cat(biases)
