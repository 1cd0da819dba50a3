"""Which stage an evaluation belongs to, by its noise level (METHOD 6 and 8)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Stage(Enum):
    """What the method does at a noise level."""

    OFF = "off"
    LAYOUT = "layout"
    INJECTION = "injection"


@dataclass(frozen=True)
class StageSigmas:
    """Noise levels of the stages' borders, falling: start >= switch >= end."""

    start: float
    switch: float
    end: float

    def stage(self, sigma: float) -> Stage:
        """Off outside start..end; injection below the switch; layout before it."""
        if sigma > self.start or sigma < self.end:
            return Stage.OFF
        return Stage.INJECTION if sigma < self.switch else Stage.LAYOUT
