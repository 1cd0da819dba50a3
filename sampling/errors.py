"""Errors that say which node and which input they are about."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

NodeName = Literal["Apply", "Reference", "Prompt", "AttentionRecord", "Region"]


class SamplingError(Exception):
    """MagicFace cannot go on with a run.

    Not a ValueError: other packs sample inside `except ValueError` and would hide it.

    The message says which input, what was given and what to do. Where it is about an input of one of the pack's nodes,
    nodes/ puts the node's id before it.
    """

    def __init__(self, message: str, node: NodeName | None = None) -> None:
        super().__init__(message)
        self.node = node


@contextmanager
def error_prefix(prefix: str) -> Iterator[None]:
    """Put the name of a node or an input before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{prefix}: {error}") from error
