"""The pack's own socket types, its category, an input of fractions, and checks of inputs.

Widgets keep to their range and options; values from a link or the API need not.
"""

import math
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

CATEGORY = "MagicFace"

ReferenceSocket = io.Custom("MAGICFACE_REFERENCE")
ScheduleSocket = io.Custom("MAGICFACE_SCHEDULE")
RecordSocket = io.Custom("MAGICFACE_RECORD")

_MAX_PX = 4096


def fraction_input(name: str, default: float, tooltip: str, step: float = 0.01, **options: bool) -> Any:
    """A number from 0 to 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=step, tooltip=tooltip, **options)


def size_input() -> Any:
    """The size at which pictures are encoded."""
    return io.Int.Input(
        "size",
        default=0,
        min=0,
        max=_MAX_PX,
        step=64,
        tooltip="The picture is scaled to the area of a square of this side in pixels; its aspect ratio is kept"
        " (sides: multiples of 64). 0 = 1024 for SDXL, 512 for SD 1.x and 2.x.",
    )


def check_size(size: int) -> None:
    """Raise a ValueError that names the input unless the size is 0 or in its range."""
    if size:
        check_range("size", size, 64, _MAX_PX)


def check_range(name: str, value: float, lowest: float, highest: float) -> None:
    """Raise a ValueError that names the input unless the value is a number in lowest..highest."""
    if not (math.isfinite(value) and lowest <= value <= highest):
        raise ValueError(f"{name}: is {value}; give a number from {lowest:g} to {highest:g}")


def check_choice(name: str, value: str, options: Sequence[str]) -> None:
    """Raise a ValueError that names the input unless the value is one of the options."""
    if value not in options:
        raise ValueError(f"{name}: is {value!r}; choose {', '.join(options[:-1])} or {options[-1]}")
