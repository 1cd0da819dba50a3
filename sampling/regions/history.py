"""The regions that runs found, stored so that the preview can show them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..latent_store import LatentStore

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
    """

    concept_names: tuple[str, ...]
    steps: list[StepRegions] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the maps."""
        return sum(s.concepts.nbytes + s.foreground.nbytes for s in self.steps)


REGION_STORE: LatentStore[RegionHistory] = LatentStore(_MAX_BYTES)
"""Region histories by latent, for the preview node."""
