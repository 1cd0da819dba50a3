"""The pack's own socket types, its category, and the check of numbers."""

from __future__ import annotations

import math

from comfy_api.latest import io

CATEGORY = "MagicFace"

ReferenceSocket = io.Custom("MAGICFACE_REFERENCE")
ScheduleSocket = io.Custom("MAGICFACE_SCHEDULE")
RecordSocket = io.Custom("MAGICFACE_RECORD")


def within(name: str, value: float, lowest: float, highest: float) -> float:
    """The value, if it is a number in lowest..highest.

    Raises:
        ValueError: naming the input and its range. Widgets keep to it; a number that comes over a link may not.
    """
    if not (math.isfinite(value) and lowest <= value <= highest):
        raise ValueError(f"{name}: is {value}; give a number from {lowest:g} to {highest:g}")
    return value
