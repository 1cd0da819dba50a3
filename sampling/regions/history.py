"""The regions that runs found, stored so that the preview can show them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...attention.regions import Regions
from ..latent_store import LatentStore
from .index import RegionIndex

_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class StepRegions:
    """The regions at the end of one sampler step.

    Attributes:
        step: its number, from 0.
        concepts: (b, H2, W2) concept indices or -1.
        foreground: (b, H2, W2) bool.
    """

    step: int
    concepts: Tensor
    foreground: Tensor

    def compact(self) -> StepRegions:
        """A copy with one byte for each pixel, which shares no memory with the run."""
        return StepRegions(self.step, self.concepts.to(torch.int8), self.foreground.clone())


@dataclass(eq=False)
class RegionHistory:
    """The regions of one run, step by step.

    Attributes:
        concept_names: for a legend, by concept index.
        steps: the steps that have regions, in order.
        findings: what the run did less than it was asked for, one sentence each.
        concepts: their identities, by index.
        latest: those of the last evaluation that found some, which a run that goes on with the latent begins with.
        end_level: the noise level at which the run ended.
    """

    concept_names: tuple[str, ...]
    steps: list[StepRegions] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    concepts: tuple[Any, ...] = ()
    latest: Regions | None = None
    end_level: float = 0.0

    @property
    def nbytes(self) -> int:
        """Size in bytes of the maps."""
        last = () if self.latest is None else (self.latest.labels, self.latest.concepts, self.latest.foreground)
        return sum(s.concepts.nbytes + s.foreground.nbytes for s in self.steps) + sum(maps.nbytes for maps in last)


class RegionRecorder:
    """Records the regions of one run.

    Regions are read from the device some time after they are added, so that the host need not wait for them.
    """

    def __init__(self, concept_names: tuple[str, ...], concepts: tuple[Any, ...], findings: list[str]) -> None:
        self._history = RegionHistory(concept_names, findings=findings, concepts=concepts)
        self._unread: list[tuple[int, RegionIndex]] = []

    def add(self, step: int, found: RegionIndex) -> None:
        """Add the regions at the end of a step."""
        self._unread.append((step, found))

    def read(self) -> RegionHistory:
        """The history of the steps so far."""
        for step, found in self._unread:
            self._history.steps.append(StepRegions(step, found.concepts, found.foreground).compact())
        self._unread.clear()
        return self._history

    def end(self, latest: RegionIndex | None, level: float) -> RegionHistory:
        """The history of the whole run, which ended at a noise level."""
        history = self.read()
        history.end_level = level
        if latest is not None:
            given = latest.on_device
            labels, concepts = given.labels.to("cpu", torch.int16), latest.concepts.to(torch.int8)
            history.latest = Regions(labels, concepts, latest.foreground.clone(), given.label_count)
        return history


REGION_STORE: LatentStore[RegionHistory] = LatentStore(_MAX_BYTES)
"""Region histories by latent, for the preview node."""


def regions_under(latent: Tensor, level: float, concepts: tuple[Any, ...], device: torch.device) -> RegionIndex | None:
    """The last regions of the run that left a latent (b, ch, H, W) at a noise level.

    Args:
        latent: as a sampler gives it out.
        level: at which sampling goes on.
        concepts: their identities: the run must have had the same concepts in the same places.
        device: of the regions.

    Returns:
        None if they are not known for all images.
    """
    found = REGION_STORE.find(latent) or []
    known = [
        (history.latest, index)
        for history, index in found
        if history.latest is not None
        and history.concepts == concepts
        and math.isclose(history.end_level, level, rel_tol=1e-4)
    ]
    if not known or len(known) != len(found):
        return None

    def of_images(name: str) -> Tensor:
        return torch.stack([getattr(regions, name)[index] for regions, index in known]).to(device)

    count = max(regions.label_count for regions, _ in known)
    return RegionIndex(
        Regions(of_images("labels").long(), of_images("concepts").long(), of_images("foreground"), count)
    )
