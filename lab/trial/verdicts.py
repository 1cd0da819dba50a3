"""Which values look best by the measures, setting by setting. They say nothing of how pictures look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

from .grid import DEFAULT, Setting
from .measures import Run

T = TypeVar("T")
CLEAR = 0.02  # of agreement; less is no difference


@dataclass(frozen=True)
class Score:
    """A value of a setting.

    Attributes:
        variant: the id of its variant.
        value: of the setting.
        found: the part of the concepts that have a region, over all runs, 0..1.
        by_seed: for each seed, the mean agreement of its concepts, 0..1; 0 for a run that failed.
        seconds: of its fastest run; None if all failed.
    """

    variant: str
    value: Any
    found: float
    by_seed: tuple[float, ...]
    seconds: float | None

    @property
    def agreement(self) -> float:
        """The mean over runs and concepts."""
        return fmean(self.by_seed)

    def clearly_better(self, other: Score) -> bool:
        """Whether it finds more concepts, or as many and agrees better with every seed. One seed proves nothing."""
        if len(self.by_seed) < 2:
            return False
        if self.found != other.found:
            return self.found > other.found
        return all(mine > its + CLEAR for mine, its in zip(self.by_seed, other.by_seed, strict=True))


@dataclass(frozen=True)
class Verdict:
    """The values of a setting, and the one that is best by the measures.

    Attributes:
        setting: that was changed alone.
        scores: of its values, the default's first.
    """

    setting: Setting
    scores: tuple[Score, ...]

    @property
    def default(self) -> Score:
        """The score of the default."""
        return self.scores[0]

    @property
    def ordered(self) -> list[Score]:
        """The scores by value where values are numbers."""
        return in_order(self.scores, [score.value for score in self.scores])

    @property
    def best(self) -> Score:
        """The best that is clearly better than the default; the default if there is none."""
        better = [score for score in self.scores if score.clearly_better(self.default)]
        return max(better, key=lambda score: (score.found, score.agreement), default=self.default)

    @property
    def clear(self) -> bool:
        """Whether a value is clearly better than the default."""
        return self.best is not self.default


def in_order(items: Sequence[T], values: Sequence[Any]) -> list[T]:
    """Items sorted by their values if these are numbers; else as they are."""
    if not all(isinstance(value, (int, float)) for value in values):
        return list(items)
    return [item for _, item in sorted(zip(values, items, strict=True), key=lambda pair: pair[0])]


def score(runs: Sequence[Run], value: Any, words: Sequence[str]) -> Score:
    """The score of a variant's runs."""
    found = sum(len(run.found) for run in runs) / (len(runs) * len(words))
    by_seed = tuple(sum(run.agreement.values()) / len(words) for run in runs)
    return Score(
        runs[0].variant.id, value, found, by_seed, min((run.seconds for run in runs if run.seconds), default=None)
    )


def verdicts(runs: Sequence[Run], defaults: dict[str, Any], words: Sequence[str]) -> list[Verdict]:
    """A verdict on each setting that was changed.

    Args:
        runs: all of the trial, each variant with the same seeds in the same order.
        defaults: the values of settings, by `place`.
        words: of the concepts.
    """
    by_variant: dict[str, list[Run]] = {}
    for run in runs:
        by_variant.setdefault(run.variant.id, []).append(run)
    of_setting: dict[Setting, list[Score]] = {}
    for mine in by_variant.values():
        variant = mine[0].variant
        if variant.setting:
            default = score(by_variant[DEFAULT], defaults[variant.setting.place], words)
            of_setting.setdefault(variant.setting, [default]).append(score(mine, variant.value, words))
    return [Verdict(setting, tuple(scores)) for setting, scores in of_setting.items()]
