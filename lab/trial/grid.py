"""The grid of a trial: one setting is changed at a time, all others are at their defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT, WITHOUT = "default", "without"
SEEDS, QUICK_SEEDS = (1, 2), (1,)
_GRID_PX = 64


@dataclass(frozen=True)
class Setting:
    """An input whose value is changed.

    Attributes:
        name: of the input, as the page shows it.
        node: the class of its node.
        values: to try, besides the default.
        quick: those of a quick trial.
        says: what it is, in a sentence.
    """

    name: str
    node: str
    values: tuple[Any, ...]
    quick: tuple[Any, ...]
    says: str

    @property
    def place(self) -> str:
        """The input as a job list names it."""
        return f"{self.node}.{self.name}"


@dataclass(frozen=True)
class Variant:
    """One way to make the picture.

    Attributes:
        id: in job lists and file names.
        setting: the one that differs from its default; None for the defaults, and for the picture without MagicFace.
        value: of that setting.
    """

    id: str
    setting: Setting | None = None
    value: Any = None

    @property
    def options(self) -> dict[str, Any]:
        """What a job list says of it."""
        return {} if self.setting is None else {self.setting.place: self.value}


def settings(size_px: int) -> tuple[Setting, ...]:
    """All settings of the grid.

    Args:
        size_px: the side of the pictures.
    """
    smaller = tuple(max(_GRID_PX, round(size_px * part / _GRID_PX) * _GRID_PX) for part in (0.75, 0.5))
    schedule = "MagicFaceSchedule"
    return (
        Setting("weight", "MagicFaceMaskWeight", (1.0, 2.0, 3.0), (1.0, 3.0), "How much each reference counts."),
        Setting("switch", schedule, (0.2, 0.7), (0.7,), "When the layout stage changes to the blend stage."),
        Setting("injection_blocks", schedule, ("finest", "all"), ("finest",), "Where references are attended to."),
        Setting("segmentation_blocks", schedule, ("decoder", "all"), (), "Where regions are found."),
        Setting("token_suppression", schedule, (0.4, 0.8), (), "Lower gives the concepts larger regions; 0 = auto."),
        Setting("semantic_guidance", schedule, (False,), (False,), "Stronger guidance where it is weak."),
        Setting("refresh", schedule, (0.0, 0.34), (), "How seldom references are computed; 0 = every time."),
        Setting("size", "MagicFaceReference", smaller, (), "The references' size in pixels; 0 = that of the model."),
    )


def variants(grid: Sequence[Setting], defaults: Mapping[str, Any], quick: bool) -> Iterator[Variant]:
    """All variants, the defaults and the picture without MagicFace first.

    Args:
        grid: the settings.
        defaults: the value of each, by `place`.
        quick: only a handful of them.
    """
    yield Variant(DEFAULT)
    yield Variant(WITHOUT)
    for setting in grid:
        for value in dict.fromkeys(setting.quick if quick else setting.values):
            if value != defaults[setting.place]:
                yield Variant(f"{setting.name}={value}", setting, value)
