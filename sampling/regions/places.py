"""Places: which concepts may be where, on the r = 2 grid of one latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...attention.device import to_device
from ...attention.injection import InjectionRule, restricted
from ...attention.regions import NO_CONCEPT, NO_LABEL, Regions, half_grid, resize_nearest
from ...attention.schedule import Stage
from ..conditioning.roles import Area, half_grid_span
from .target import of_batch

if TYPE_CHECKING:
    from ..method import Method


class Places:
    """The places of a method's concepts.

    Args:
        method: the method.
        shape: (b, ch, H, W) of the latent.

    Source: docs/method.md#places.
    """

    def __init__(self, method: Method, shape: Sequence[int]) -> None:
        self._batch, self._grid = shape[0], half_grid(shape)
        phrases = {concept.concept_tokens: index for index, concept in enumerate(method.concepts)}
        self._phrases = [phrases[concept.concept_tokens] for concept in method.concepts]
        self._exact = [concept.region is not None and concept.region.exact for concept in method.concepts]
        self._active = [method.is_active(concept) for concept in method.concepts]
        self._in_layout = [method.is_on(concept, Stage.LAYOUT) for concept in method.concepts]
        self._masks: list[Tensor | None] = []
        self._shares: list[Tensor | None] = []
        self._rules: dict[Any, InjectionRule] = {}
        for concept, active in zip(method.concepts, self._active, strict=True):
            region = concept.region if active else None
            mask, share = (None, None) if region is None else region.on_grid(self._grid)
            self._masks.append(mask if mask is None else of_batch(mask, self._batch))
            self._shares.append(share if share is None else of_batch(share, self._batch))

    def apply(self, found: Regions | None, device: torch.device) -> Regions:
        """The regions with each concept in its place.

        Concepts with a phrase in common share what was found for the phrase. The later concept wins; one that is only
        to be within its place wins over one that may be anywhere, and one that is exactly there over both. Exact
        regions have labels of their own, behind the found ones, and belong to the foreground.
        """
        if found is None:
            none = torch.full((self._batch, *self._grid), NO_LABEL, device=device)
            found = Regions(none, none, none.new_zeros(none.shape, dtype=torch.bool), 0)
        # Of several concepts with a phrase, the segmentation gives all of it to the last one.
        phrases = to_device(torch.tensor([*self._phrases, NO_CONCEPT]), device)
        phrase = phrases[found.concepts]
        concepts = torch.full_like(found.concepts, NO_CONCEPT)
        labels, foreground = found.labels, found.foreground
        for index in sorted(
            range(len(self._masks)), key=lambda index: (self._exact[index], self._masks[index] is not None, index)
        ):
            if not self._active[index]:
                continue
            mask = self._masks[index]
            claimed = phrase == self._phrases[index]
            if mask is not None:
                inside = to_device(mask, device)
                claimed = inside if self._exact[index] else claimed & inside
            concepts = torch.where(claimed, index, concepts)
            if self._exact[index]:
                labels = torch.where(claimed, found.label_count + index, labels)
                foreground = foreground | claimed
        outside = (phrase != NO_CONCEPT) & (concepts == NO_CONCEPT)
        labels = labels.masked_fill(outside, NO_LABEL)
        return Regions(labels, concepts, foreground, found.label_count + len(self._masks))

    def rule(
        self, area: Area | None, grid: tuple[int, int], device: torch.device, images: Sequence[int]
    ) -> InjectionRule:
        """How the queries of a block attend in the layout stage, as `RegionIndex.rule` says it for the blend stage.

        Where a query sees several concepts, the largest share counts.
        """
        key = area, grid, device, images
        if key not in self._rules:
            self._rules[key] = restricted(*self._seen(area, grid, images), device)
        return self._rules[key]

    def _seen(self, area: Area | None, grid: tuple[int, int], images: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(N, b, n) bool which concepts a query sees, and (b, n) its share."""
        n = grid[0] * grid[1]
        visible, shares = torch.ones(len(self._masks), len(images), n, dtype=torch.bool), torch.zeros(len(images), n)
        for index, (mask, share) in enumerate(zip(self._masks, self._shares, strict=True)):
            if not self._in_layout[index]:
                visible[index] = False
                continue
            if mask is not None:
                visible[index] = _on_block(mask, area, grid, images)
            of_concept = torch.ones(len(images), n) if share is None else _on_block(share, area, grid, images)
            shares = torch.where(visible[index], torch.maximum(shares, of_concept), shares)
        shares[~visible.any(dim=0)] = 1.0
        return visible, shares

    def shares(self, labels: Tensor, area: Area | None, grid: tuple[int, int], images: Sequence[int]) -> Tensor | None:
        """(b, n) in 0..1: how much a concept counts for the queries that belong to it; None if it does in full.

        Args:
            labels: (b, n) the concept of each query, or -1.
            area, grid, images: as in `rule`.
        """
        if all(share is None for share in self._shares):
            return None
        found = torch.ones(labels.shape)
        for index, share in enumerate(self._shares):
            if share is not None:
                found = torch.where(labels == index, _on_block(share, area, grid, images), found)
        return found


def _on_block(maps: Tensor, area: Area | None, grid: tuple[int, int], images: Sequence[int]) -> Tensor:
    rows, columns = half_grid_span(area)
    return resize_nearest(maps[list(images), rows, columns], grid).flatten(1)
