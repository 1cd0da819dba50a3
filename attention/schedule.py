"""Which stage an evaluation belongs to, by its noise level (docs/method.md#schedule)."""

from dataclasses import dataclass
from enum import Enum


class Stage(Enum):
    """What the method does at a noise level."""

    OFF = "off"
    LAYOUT = "layout"
    BLEND = "blend"


@dataclass(frozen=True)
class StageSigmas:
    """Noise levels at which the stages begin and end: start >= switch >= end."""

    start: float
    switch: float
    end: float

    def stage(self, sigma: float) -> Stage:
        """Off outside start..end; blend below the switch; layout from the switch up."""
        if sigma > self.start or sigma < self.end:
            return Stage.OFF
        return Stage.BLEND if sigma < self.switch else Stage.LAYOUT
