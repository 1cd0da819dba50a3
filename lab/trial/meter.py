"""Watches a server's memory while its jobs run."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType

from .. import MB, figures
from .host import Host
from .prompts import job_of

PERIOD_S = 0.5


class Meter(threading.Thread):
    """The most memory that was seen during each job, as a context manager.

    On a GPU it is the device's, with what other programs have there. On a CPU it is that of the server's process,
    and only of a server of the trial's own.
    """

    def __init__(self, host: Host, file: Path) -> None:
        """
        Args:
            host: the server.
            file: where figures are, by job id, in units of 2^20 bytes.
        """
        super().__init__(daemon=True)
        self.host, self.file = host, file
        self.most_mb: dict[str, int] = figures.read(file) if file.is_file() else {}
        self.stop = threading.Event()

    def __enter__(self) -> Meter:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self.join()
        figures.write(self.file, self.most_mb)

    def run(self) -> None:
        """Watch until told to stop. A server that does not answer is asked again."""
        seen: set[str] = set()
        while not self.stop.wait(PERIOD_S):
            with contextlib.suppress(OSError, ValueError, LookupError):
                running = self.host.client.get_json("/queue")["queue_running"]
                job = job_of(running[0][2]) if running else None
                memory = self.used_bytes() if job else None
                if job and memory:
                    before = self.most_mb.get(job, 0) if job in seen else 0  # of an earlier trial
                    self.most_mb[job] = max(before, memory // MB)
                    seen.add(job)

    def used_bytes(self) -> int | None:
        """What is used now; None where that cannot be known."""
        device = self.host.client.get_json("/system_stats")["devices"][0]
        if device["type"] == "cpu":
            return self.host.resident_bytes() if self.host.resident_bytes else None
        used: int = device["vram_total"] - device["vram_free"]
        return used
