"""From the attention maps of one evaluation to regions of the whole picture."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import reduce as fold
from typing import Any

import torch
from torch import Tensor

from ..attention.regions import NO_CONCEPT, NO_TOKEN, Regions, carry, group_queries, half_grid
from ..attention.segmentation import AttentionMaps, segment
from .method import Method
from .roles import Area, CondRow


class Segmenter:
    """Takes in attention maps during one evaluation's UNet calls, and finds the regions after them.

    Args:
        method: the method.
        size_lat: (H, W) of the whole latent.
        zeroed: uuids of conds whose text is zeroed out: their attention tells nothing.
    """

    def __init__(self, method: Method, size_lat: Sequence[int], zeroed: Collection[Any]) -> None:
        self._method, self._size_lat, self._zeroed = method, size_lat, zeroed
        self._maps: dict[tuple[str, Any], tuple[CondRow, AttentionMaps]] = {}

    def maps_of(self, row: CondRow, size_lat: Sequence[int]) -> AttentionMaps | None:
        """Where the maps of a cond go; None for one that tells nothing.

        Args:
            row: the cond.
            size_lat: (H, W) of what it sees.
        """
        uuid = row.cond["uuid"]
        if (
            row.role == "other"
            or (row.role == "positive" and row.tag is None)
            or row.length == 0
            or uuid in self._zeroed
        ):
            return None
        key = row.role, uuid
        if key not in self._maps:
            self._maps[key] = row, AttentionMaps(half_grid(size_lat), row.starts, row.role == "positive")
        return self._maps[key][1]

    def regions(self) -> Regions | None:
        """The regions of all positive conds together; None if no UNet call told anything."""
        found = [
            _on_canvas(self._segment(row, maps), row, self._size_lat)
            for row, maps in self._maps.values()
            if row.role == "positive" and maps.blocks
        ]
        return fold(_unite, found) if found else None

    def _segment(self, row: CondRow, maps: AttentionMaps) -> Regions:
        """The regions of one cond, on its own grid."""
        assert row.tag is not None
        phrases = [
            row.tag.positions(concept.concept_tokens) if self._method.is_active(concept) else []
            for concept in self._method.concepts
        ]
        against = [
            other.background
            for negative, other in self._maps.values()
            if negative.role == "negative" and negative.area == row.area and other.blocks
        ]
        background = torch.stack(against).mean(dim=0) if against else maps.background
        foreground = background[:, 0] <= background[:, 1]
        return segment(maps.tokens, foreground, phrases, self._method.suppression, self._method.cut_to_foreground)


def _span(area: Area) -> tuple[slice, slice]:
    """What an area of the latent covers on the r = 2 grid."""
    height, width, top, left = area
    return slice(top // 2, (top + height + 1) // 2), slice(left // 2, (left + width + 1) // 2)


def _on_canvas(regions: Regions, row: CondRow, size_lat: Sequence[int]) -> Regions:
    """Regions of a cond that sees an area, or has a say in a mask only, on the whole picture's grid."""
    if row.area is None and row.mask is None:
        return regions
    grid = half_grid(size_lat)
    batch = regions.tokens.shape[0]
    tokens = regions.tokens.new_full((batch, *grid), NO_TOKEN)
    concepts = regions.concepts.new_full((batch, *grid), NO_CONCEPT)
    foreground = regions.foreground.new_zeros((batch, *grid))
    rows, columns = _span(row.area) if row.area is not None else (slice(None), slice(None))
    size = tokens[0, rows, columns].shape
    for canvas, part in ((tokens, regions.tokens), (concepts, regions.concepts), (foreground, regions.foreground)):
        canvas[:, rows, columns] = carry(part, size)
    if row.mask is not None:
        silent = ~carry(row.mask > 0, grid).to(tokens.device)
        silent = silent.repeat(-(-batch // len(silent)), 1, 1)[:batch]
        tokens, concepts = tokens.masked_fill(silent, NO_TOKEN), concepts.masked_fill(silent, NO_CONCEPT)
        foreground = foreground & ~silent
    return Regions(tokens, concepts, foreground, regions.length)


def _unite(one: Regions, other: Regions) -> Regions:
    """Two conds' regions as one; where both claim a pixel the later concept has it. Tokens stay apart by number."""
    take = (other.concepts > one.concepts) | (one.tokens == NO_TOKEN)
    shifted = torch.where(other.tokens == NO_TOKEN, NO_TOKEN, other.tokens + one.length)
    return Regions(
        tokens=torch.where(take, shifted, one.tokens),
        concepts=torch.where(take, other.concepts, one.concepts),
        foreground=one.foreground | other.foreground,
        length=one.length + other.length,
    )


class RegionIndex:
    """Regions in main memory, and the query groups that blocks ask of them.

    Args:
        regions: what an evaluation found.
    """

    def __init__(self, regions: Regions) -> None:
        self.regions = regions
        # Both in one copy: the only wait for the device that an evaluation needs.
        self.concepts, foreground = torch.stack((regions.concepts, regions.foreground.long())).cpu()
        self.foreground = foreground.bool()
        self._groups: dict[Any, list[list[tuple[int, Tensor]]]] = {}

    def groups(self, area: Area | None, grid: tuple[int, int], device: torch.device) -> list[list[tuple[int, Tensor]]]:
        """Queries of a block by region, for a cond that sees an area (or all); see `group_queries`."""
        key = area, grid, device
        if key not in self._groups:
            rows, columns = (slice(None), slice(None)) if area is None else _span(area)
            self._groups[key] = group_queries(self.concepts[:, rows, columns], grid, device)
        return self._groups[key]
