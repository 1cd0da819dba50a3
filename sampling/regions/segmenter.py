"""Attention-based segmentation of the whole picture: the region source of the paper."""

from collections.abc import Sequence
from functools import reduce as fold
from typing import Any

import torch
from torch import Tensor

from ...attention.blocks import Block
from ...attention.device import to_device
from ...attention.regions import NO_CONCEPT, NO_LABEL, Regions, half_grid, resize_nearest
from ...attention.segmentation import AttentionMaps, segment
from ..conditioning.roles import CondRow, KnownConds, half_grid_span
from ..method import Method
from .places import Places


class MapsOfCond:
    """The attention maps of one cond, which may come in parts of the batch; where parts overlap, the later one counts.

    Args:
        row: the cond.
        batch: how many images there are.
    """

    def __init__(self, row: CondRow, batch: int) -> None:
        self.row, self._batch = row, batch
        self._parts: list[tuple[Sequence[int], AttentionMaps]] = []

    def add(self, images: Sequence[int], maps: AttentionMaps) -> None:
        """Add the maps of some images, still empty; earlier ones of no other images are dropped."""
        self._parts = [part for part in self._parts if not set(part[0]) <= set(images)]
        self._parts.append((images, maps))

    @property
    def complete(self) -> bool:
        """Whether all images have maps; another node may skip the UNet for some."""
        return len({image for images, maps in self._parts if maps.blocks for image in images}) == self._batch

    def tokens(self, device: torch.device) -> Tensor:
        """See `AttentionMaps`, for the whole batch."""
        return self._joined([(images, maps.tokens) for images, maps in self._parts if maps.blocks], device)

    def background(self, device: torch.device) -> Tensor:
        """See `AttentionMaps`, for the whole batch."""
        return self._joined([(images, maps.background) for images, maps in self._parts if maps.blocks], device)

    def _joined(self, parts: Sequence[tuple[Sequence[int], Tensor]], device: torch.device) -> Tensor:
        _, first = parts[0]
        if len(parts) == 1:
            return first.to(device)
        whole = first.new_zeros(self._batch, *first.shape[1:])
        for images, maps in parts:
            whole[to_device(torch.tensor(images), whole.device)] = maps.to(whole)
        return whole.to(device)


class Segmenter:
    """Finds regions by the attention of the method's segmentation blocks. A `RegionFinder`, and its class a source.

    Args:
        method: the method.
        shape: (b, ch, H, W) of the whole latent.

    Source: docs/method.md#segmentation.
    """

    def __init__(self, method: Method, shape: Sequence[int]) -> None:
        self._method, self._shape = method, shape
        self.blocks: Sequence[Block] = method.segmentation_blocks
        self.places: Places | None = None
        self._maps: dict[tuple[str, Any], MapsOfCond] = {}

    def new_maps(self, row: CondRow, size_lat: Sequence[int], images: Sequence[int]) -> AttentionMaps | None:
        """See `RegionFinder`."""
        untagged = row.role == "positive" and row.tag is None
        if row.role == "other" or untagged or row.zeroed or row.length == 0:
            return None
        maps = AttentionMaps(half_grid(size_lat), row.starts, row.role == "positive")
        self._maps.setdefault((row.role, row.cond["uuid"]), MapsOfCond(row, self._shape[0])).add(images, maps)
        return maps

    def regions(self, conds: KnownConds, device: torch.device) -> Regions | None:
        """The regions of all positive conds together; see `RegionFinder`."""
        positive = [row for row in conds.values() if row.role == "positive"]
        mapped = [(row, self._maps.get(("positive", row.cond["uuid"]))) for row in positive]
        found = [
            _on_canvas(self._segment(row, maps, device), row, self._zone(row, positive, device))
            for row, maps in mapped
            if maps is not None and maps.complete
        ]
        return fold(_unite, found) if found else None

    def _segment(self, row: CondRow, maps: MapsOfCond, device: torch.device) -> Regions:
        """The regions of one cond, on its own grid."""
        assert row.tag is not None
        phrases = self._method.positions(row.tag)
        negative = [
            m for m in self._maps.values() if m.row.role == "negative" and m.row.area == row.area and m.complete
        ]
        background = torch.stack([m.background(device) for m in negative or [maps]]).mean(dim=0)
        foreground = background[:, 0] <= background[:, 1]
        tokens = maps.tokens(device)
        return segment(tokens, foreground, phrases, self._method.suppression, self._method.cut_to_foreground)

    def _zone(self, row: CondRow, positive: Sequence[CondRow], device: torch.device) -> Tensor | None:
        """(1 or b, H2, W2) bool: where a cond counts; None for everywhere.

        A default cond counts where no other does.
        """
        if "default" in row.cond:
            others = [self._reach(other, device) for other in positive if "default" not in other.cond]
            return ~fold(torch.logical_or, others) if others else None
        return None if row.area is None and row.mask is None else self._reach(row, device)

    def _reach(self, row: CondRow, device: torch.device) -> Tensor:
        """(1 or b, H2, W2) bool: the cond's area and mask on the r = 2 grid."""
        grid = half_grid(self._shape)
        reach = torch.zeros((1, *grid), dtype=torch.bool, device=device)
        rows, columns = half_grid_span(row.area)
        reach[:, rows, columns] = True
        return reach if row.mask is None else reach & resize_nearest(row.mask > 0, grid).to(device)


def _on_canvas(regions: Regions, row: CondRow, zone: Tensor | None) -> Regions:
    """Paste a cond's regions into the whole picture's grid, with nothing outside its zone."""
    if zone is None:
        return regions
    batch, (rows, columns) = len(regions.labels), half_grid_span(row.area)
    zone = zone.repeat(-(-batch // len(zone)), 1, 1)[:batch]
    labels = torch.full_like(zone, NO_LABEL, dtype=torch.int64)
    concepts = torch.full_like(zone, NO_CONCEPT, dtype=torch.int64)
    foreground = torch.zeros_like(zone)
    for canvas, part in ((labels, regions.labels), (concepts, regions.concepts), (foreground, regions.foreground)):
        canvas[:, rows, columns] = resize_nearest(part, canvas[0, rows, columns].shape)
    labels, concepts = labels.masked_fill(~zone, NO_LABEL), concepts.masked_fill(~zone, NO_CONCEPT)
    return Regions(labels, concepts, foreground & zone, regions.label_count)


def _unite(one: Regions, other: Regions) -> Regions:
    """Combine the regions of two conds. Where both claim a pixel, the later concept has it. Labels are renumbered."""
    take = (other.concepts > one.concepts) | (one.labels == NO_LABEL)
    shifted = torch.where(other.labels == NO_LABEL, NO_LABEL, other.labels + one.label_count)
    return Regions(
        labels=torch.where(take, shifted, one.labels),
        concepts=torch.where(take, other.concepts, one.concepts),
        foreground=one.foreground | other.foreground,
        label_count=one.label_count + other.label_count,
    )
