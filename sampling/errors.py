"""Errors that say which node and which input they are about."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal


class InputError(ValueError):
    """A bad input of one of the pack's nodes that is found when sampling begins, in the sampler's node.

    The message says which input, what was given and what to do; nodes/ puts the node's id before it.
    """

    def __init__(self, node: Literal["Apply", "Reference", "Prompt", "AttentionRecord"], message: str) -> None:
        super().__init__(message)
        self.node = node


@contextmanager
def error_prefix(prefix: str) -> Iterator[None]:
    """Put the name of a node or an input before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{prefix}: {error}") from error
