"""The pack's own socket types, its category, and how its errors name node and input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from comfy_api.latest import io

CATEGORY = "MagicFace"

ReferenceSocket = io.Custom("MAGICFACE_REFERENCE")
ScheduleSocket = io.Custom("MAGICFACE_SCHEDULE")


@contextmanager
def speaking_for(node_id: str) -> Iterator[None]:
    """Put the node's name before the message of a ValueError, which names the input itself."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{node_id}: {error}") from error


def within(name: str, value: float, lowest: float, highest: float) -> float:
    """The value, if it is a number in lowest..highest.

    Raises:
        ValueError: naming the input and its range. Widgets keep to it; a number that comes over a link may not.
    """
    if not (math.isfinite(value) and lowest <= value <= highest):
        raise ValueError(f"{name}: is {value}; give a number from {lowest:g} to {highest:g}")
    return value
