"""Region sources: where the regions of a run come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from ...attention.blocks import Block
from ...attention.regions import Regions
from ...attention.segmentation import AttentionMaps
from ..conditioning.roles import CondRow, KnownConds

if TYPE_CHECKING:
    from ..method import Method
    from .places import Places


class RegionFinder(Protocol):
    """Finds the regions of one evaluation.

    They scale guidance in this evaluation and steer the blend stage until a later one finds others. Without regions the
    layout stage goes on, and there is no semantic guidance. `Regions` have the batch's size.

    Attributes:
        blocks: whose attention maps it reads. Without any, its regions are known before the UNet calls.
        places: where concepts may be, whatever is found; None for anywhere.
    """

    blocks: Sequence[Block]
    places: Places | None

    def new_maps(self, row: CondRow, size_lat: Sequence[int], images: Sequence[int]) -> AttentionMaps | None:
        """What the maps of a cond that sees (H, W) of the latent are added to in one pass of the UNet.

        They take the place of earlier ones of the same images. None if they are not read.
        """
        ...

    def regions(self, conds: KnownConds, device: torch.device) -> Regions | None:
        """The regions of the whole picture after the UNet calls; None if there are none.

        Args:
            conds: of the evaluation, whose order counts: UNet calls come in any order.
            device: of the regions; the conds may have run on several. Main memory if no blocks are read.
        """
        ...


RegionSource = Callable[["Method", Sequence[int]], RegionFinder]
"""Called with the method and a latent's shape (b, ch, H, W) to begin an evaluation. `Segmenter` and `PlacedRegions` are
such classes."""


class NoRegions:
    """A region source that finds none: only the layout stage, without semantic guidance."""

    blocks: Sequence[Block] = ()
    places: Places | None = None

    def __init__(self, method: Method, shape: Sequence[int]) -> None:
        pass

    def new_maps(self, row: CondRow, size_lat: Sequence[int], images: Sequence[int]) -> None:
        return None

    def regions(self, conds: KnownConds, device: torch.device) -> None:
        return None
