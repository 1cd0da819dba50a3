"""The regions of an evaluation, as the blocks of the next one ask for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...attention.device import to_device
from ...attention.injection import InjectionRule, rba
from ...attention.regions import Regions, resize_nearest
from ..conditioning.roles import Area, half_grid_span
from .places import Places


class RegionIndex:
    """Regions of an evaluation, copied to main memory when first needed, and the injection rules made of them."""

    def __init__(self, on_device: Regions, in_main_memory: tuple[Tensor, Tensor] | None = None) -> None:
        self.on_device = on_device
        self._in_main_memory = in_main_memory  # concepts and foreground
        self._rules: dict[tuple[Area | None, tuple[int, int], torch.device, Sequence[int]], InjectionRule] = {}

    @classmethod
    def known(cls, regions: Regions, device: torch.device) -> RegionIndex:
        """Regions that are in main memory, and a copy on the device: the host need not wait for them."""
        labels, concepts, foreground = (
            to_device(maps, device) for maps in (regions.labels, regions.concepts, regions.foreground)
        )
        on_device = Regions(labels, concepts, foreground, regions.label_count)
        return cls(on_device, (regions.concepts, regions.foreground))

    def read_with(self, number: Tensor) -> float:
        """Read a number (1,) from the device, and the regions with it, so that the host waits once."""
        if self._in_main_memory is not None:
            return float(number)
        maps = torch.stack((self.on_device.concepts.float(), self.on_device.foreground.float()))
        together = torch.cat((maps.flatten(), number.to(maps))).cpu()
        concepts, foreground = together[:-1].view(maps.shape)
        self._in_main_memory = concepts.long(), foreground.bool()
        return float(together[-1])

    @property
    def concepts(self) -> Tensor:
        """(b, H2, W2) int64 in main memory."""
        return self._copies()[0]

    @property
    def foreground(self) -> Tensor:
        """(b, H2, W2) bool in main memory."""
        return self._copies()[1]

    def _copies(self) -> tuple[Tensor, Tensor]:
        if self._in_main_memory is None:
            self.read_with(self.on_device.foreground.new_zeros(1))
        assert self._in_main_memory is not None
        return self._in_main_memory

    def rule(
        self,
        area: Area | None,
        grid: tuple[int, int],
        device: torch.device,
        images: Sequence[int],
        places: Places | None = None,
    ) -> InjectionRule:
        """How the queries of a block attend in some of the images, given as a tuple.

        The cond sees an area of the latent (None: all of it). Places say where a concept counts in part.

        Source: docs/method.md#regions.
        """
        key = area, grid, device, images
        if key not in self._rules:
            rows, columns = half_grid_span(area)
            labels = resize_nearest(self.concepts[list(images), rows, columns], grid).flatten(1)
            shares = None if places is None else places.shares(labels, area, grid, images)
            self._rules[key] = rba(labels, device, shares)
        return self._rules[key]
