"""Regions that a person gave: the second region source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...attention.blocks import Block
from ...attention.regions import Regions
from ...attention.segmentation import AttentionMaps
from ..conditioning.roles import CondRow, KnownConds
from .places import Places
from .segmenter import Segmenter

if TYPE_CHECKING:
    from ..method import Method


class PlacedRegions:
    """Puts concepts where they are to be. A `RegionFinder`, and its class a source.

    What is not given exactly is found by attention-based segmentation, and cut to its place. If all is given exactly,
    no attention maps are read.

    Args:
        method: the method.
        shape: (b, ch, H, W) of the whole latent.
    """

    def __init__(self, method: Method, shape: Sequence[int]) -> None:
        self._found = Segmenter(method, shape) if method.needs_words else None
        self.blocks: Sequence[Block] = () if self._found is None else self._found.blocks
        self.places: Places | None = Places(method, shape)

    def new_maps(self, row: CondRow, size_lat: Sequence[int], images: Sequence[int]) -> AttentionMaps | None:
        """See `RegionFinder`."""
        return None if self._found is None else self._found.new_maps(row, size_lat, images)

    def regions(self, conds: KnownConds, device: torch.device) -> Regions | None:
        """See `RegionFinder`."""
        assert self.places is not None
        found = None if self._found is None else self._found.regions(conds, device)
        if self._found is not None and found is None:
            return None
        return self.places.apply(found, device)
