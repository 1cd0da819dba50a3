"""Errors that name where a bad input came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put a node's or an input's name before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
