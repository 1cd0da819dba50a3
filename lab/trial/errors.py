"""What ends a trial."""

from __future__ import annotations


class TrialError(Exception):
    """The trial cannot be made; the message says why and what to do."""
