"""Seconds of the evaluations of a way of sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from .scene import Evaluations
from .tables import STAGES


@dataclass(eq=False)
class Times:
    """Seconds of an evaluation for one way of sampling, by stage and round."""

    by_stage: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})

    def add(self, found: Evaluations) -> None:
        """Add a round."""
        for stage, seconds in found.seconds.items():
            self.by_stage[stage].append(median(seconds))

    def over(self, others: list[Times], stage: str) -> list[float]:
        """The ratios to the sum of other ways' times, by round, of the rounds in which all were measured."""
        columns = zip(self.by_stage[stage], *(other.by_stage[stage] for other in others), strict=False)
        return [own / sum(rest) for own, *rest in columns]

    @property
    def usual(self) -> float:
        """Median seconds of an evaluation."""
        return median(seconds for stage in STAGES for seconds in self.by_stage[stage])
