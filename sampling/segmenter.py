"""From the attention maps of one evaluation to regions of the whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce as fold
from typing import Any

import torch
from torch import Tensor

from ..attention.regions import NO_CONCEPT, NO_TOKEN, Regions, carry, group_queries, half_grid
from ..attention.segmentation import AttentionMaps, segment
from .method import Method
from .roles import Area, CondRow, KnownConds


class Segmenter:
    """Takes in attention maps during one evaluation's UNet calls, and finds the regions after them.

    Args:
        method: the method.
        size_lat: (H, W) of the whole latent.
    """

    def __init__(self, method: Method, size_lat: Sequence[int]) -> None:
        self._method, self._size_lat = method, size_lat
        self._maps: dict[tuple[str, Any], tuple[CondRow, AttentionMaps]] = {}

    def maps_of(self, row: CondRow, size_lat: Sequence[int]) -> AttentionMaps | None:
        """Where the maps of a cond go; None for one that tells nothing.

        Args:
            row: the cond.
            size_lat: (H, W) of what it sees.
        """
        wordless = row.role == "positive" and row.tag is None
        if row.role == "other" or wordless or row.zeroed or row.length == 0:
            return None
        key = row.role, row.cond["uuid"]
        if key not in self._maps:
            self._maps[key] = row, AttentionMaps(half_grid(size_lat), row.starts, row.role == "positive")
        return self._maps[key][1]

    def regions(self, known: KnownConds, device: torch.device) -> Regions | None:
        """The regions of all positive conds together; None if no UNet call told anything.

        Args:
            known: the evaluation's conds, whose order counts: UNet calls come in any.
            device: where the regions shall lie; conds may have run on several.
        """
        positive = [row for row in known.values() if row.role == "positive"]
        told = [(row, self._maps.get(("positive", row.cond["uuid"]))) for row in positive]
        found = [
            _on_canvas(self._segment(row, entry[1], device), row, self._zone(row, positive, device))
            for row, entry in told
            if entry is not None and entry[1].blocks
        ]
        return fold(_unite, found) if found else None

    def _segment(self, row: CondRow, maps: AttentionMaps, device: torch.device) -> Regions:
        """The regions of one cond, on its own grid."""
        assert row.tag is not None
        phrases = [
            row.tag.positions(concept.concept_tokens) if self._method.is_active(concept) else []
            for concept in self._method.concepts
        ]
        against = [
            other.background.to(device)
            for negative, other in self._maps.values()
            if negative.role == "negative" and negative.area == row.area and other.blocks
        ]
        background = torch.stack(against).mean(dim=0) if against else maps.background.to(device)
        foreground = background[:, 0] <= background[:, 1]
        tokens = maps.tokens.to(device)
        return segment(tokens, foreground, phrases, self._method.suppression, self._method.cut_to_foreground)

    def _zone(self, row: CondRow, positive: Sequence[CondRow], device: torch.device) -> Tensor | None:
        """(1 or b, H2, W2) bool: where a cond has a say; None for everywhere.

        A default cond fills what the others leave.
        """
        if "default" in row.cond:
            others = [self._reach(other, device) for other in positive if "default" not in other.cond]
            return ~fold(torch.logical_or, others) if others else None
        return None if row.area is None and row.mask is None else self._reach(row, device)

    def _reach(self, row: CondRow, device: torch.device) -> Tensor:
        """(1 or b, H2, W2) bool: the cond's area and mask on the r = 2 grid."""
        grid = half_grid(self._size_lat)
        reach = torch.zeros((1, *grid), dtype=torch.bool, device=device)
        rows, columns = _span(row.area)
        reach[:, rows, columns] = True
        return reach if row.mask is None else reach & carry(row.mask > 0, grid).to(device)


def _span(area: Area | None) -> tuple[slice, slice]:
    """What an area of the latent covers on the r = 2 grid."""
    if area is None:
        return slice(None), slice(None)
    height, width, top, left = area
    return slice(top // 2, (top + height + 1) // 2), slice(left // 2, (left + width + 1) // 2)


def _on_canvas(regions: Regions, row: CondRow, zone: Tensor | None) -> Regions:
    """A cond's regions on the whole picture's grid, nothing outside its zone."""
    if zone is None:
        return regions
    batch, (rows, columns) = len(regions.tokens), _span(row.area)
    zone = zone.repeat(-(-batch // len(zone)), 1, 1)[:batch]
    tokens = torch.full_like(zone, NO_TOKEN, dtype=torch.int64)
    concepts = torch.full_like(zone, NO_CONCEPT, dtype=torch.int64)
    foreground = torch.zeros_like(zone)
    for canvas, part in ((tokens, regions.tokens), (concepts, regions.concepts), (foreground, regions.foreground)):
        canvas[:, rows, columns] = carry(part, canvas[0, rows, columns].shape)
    tokens, concepts = tokens.masked_fill(~zone, NO_TOKEN), concepts.masked_fill(~zone, NO_CONCEPT)
    return Regions(tokens, concepts, foreground & zone, regions.length)


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
    """Regions in main memory, where they are brought when asked for, and the query groups that blocks ask of them.

    Args:
        regions: what an evaluation found.
    """

    def __init__(self, regions: Regions) -> None:
        self.regions = regions
        self._read: tuple[Tensor, Tensor] | None = None
        self._groups: dict[Any, list[list[tuple[int, Tensor]]]] = {}

    def read_with(self, number: Tensor) -> float:
        """A number (1,) that is on the device, and with it the regions: one wait for both."""
        if self._read is not None:
            return float(number)
        maps = torch.stack((self.regions.concepts.float(), self.regions.foreground.float()))
        together = torch.cat((maps.flatten(), number.to(maps))).cpu()
        concepts, foreground = together[:-1].view(maps.shape)
        self._read = concepts.long(), foreground.bool()
        return float(together[-1])

    @property
    def concepts(self) -> Tensor:
        """(b, H2, W2) int64 in main memory."""
        return self._in_main_memory()[0]

    @property
    def foreground(self) -> Tensor:
        """(b, H2, W2) bool in main memory."""
        return self._in_main_memory()[1]

    def _in_main_memory(self) -> tuple[Tensor, Tensor]:
        if self._read is None:
            self.read_with(self.regions.foreground.new_zeros(1))
        assert self._read is not None
        return self._read

    def given(self, grid: tuple[int, int]) -> Tensor:
        """(b, hh * ww) int8 in main memory: the concept that each of a block's queries belongs to, or -1."""
        return carry(self.concepts, grid).flatten(1).to(torch.int8)

    def groups(self, area: Area | None, grid: tuple[int, int], device: torch.device) -> list[list[tuple[int, Tensor]]]:
        """Queries of a block by region, for a cond that sees an area (or all); see `group_queries`."""
        key = area, grid, device
        if key not in self._groups:
            rows, columns = _span(area)
            self._groups[key] = group_queries(self.concepts[:, rows, columns], grid, device)
        return self._groups[key]
