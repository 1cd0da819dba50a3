"""Tell how far a job list is: one line that changes on a terminal, a line for each job elsewhere."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

RECENT = 50  # jobs that the time left is reckoned from


class Progress:
    """Counts jobs, and tells."""

    def __init__(
        self, todo: int, skipped: int, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            todo: the number of jobs.
            skipped: the number of further jobs that are done already.
        """
        self.todo, self.skipped = todo, skipped
        self.done = self.failed = 0
        self.out = out or sys.stderr
        self.clock = clock
        self.ends = deque([clock()], maxlen=RECENT + 1)
        self.lock = threading.Lock()

    def job(self, text: str, failed: bool = False) -> None:
        """A job has ended."""
        with self.lock:
            self.done += not failed
            self.failed += failed
            self.ends.append(self.clock())
            if failed or not self.out.isatty():
                self._line(f"{text} ({self.status()})")
            if self.out.isatty():
                self._rewrite()

    def say(self, text: str) -> None:
        """Tell something else."""
        with self.lock:
            self._line(text)
            if self.out.isatty():
                self._rewrite()

    def status(self) -> str:
        """How many of how many, and the time left."""
        ended = self.done + self.failed
        failed = f", {self.failed} failed" if self.failed else ""
        left = self.todo - ended
        if not ended or not left:
            return f"{ended} of {self.todo}{failed}"
        pace = (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)
        return f"{ended} of {self.todo}{failed}, about {duration(pace * left)} left"

    def summary(self) -> str:
        """The last line."""
        left = self.todo - self.done - self.failed
        return f"{self.done} done, {self.failed} failed, {self.skipped} skipped (done before), {left} left"

    def end(self) -> None:
        """Leave the line that changes."""
        if self.out.isatty():
            print(file=self.out, flush=True)

    def _line(self, text: str) -> None:
        print(("\r\x1b[K" if self.out.isatty() else "") + text, file=self.out, flush=True)

    def _rewrite(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{self.status()[:width]}", end="", file=self.out, flush=True)


def duration(seconds: float) -> str:
    """A time as a person says it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
