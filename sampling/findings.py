"""What a run did less than it was asked for."""

import logging

log = logging.getLogger(__name__)


class Findings:
    """Collects the findings of one run. Each is logged once; the preview shows them all."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, message: str, level: int = logging.WARNING) -> None:
        """Add a finding, a whole sentence, unless it is known already."""
        if message not in self.messages:
            self.messages.append(message)
            log.log(level, "MagicFace: %s", message)
