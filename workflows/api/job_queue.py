"""The jobs that no server has yet, and which of them a server gets next."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from job_list import Job

MOST_TRIES = 2  # by different servers: what fails on both is the job's own fault


@dataclass(eq=False)
class Group:
    """Jobs that need the same of a server and share their references.

    Attributes:
        refused: why a server will not do them, by its address.
        last: they come after all others.
    """

    references: str
    jobs: deque[Job] = field(default_factory=deque)
    refused: dict[str, str] = field(default_factory=dict)
    last: bool = False


class JobQueue:
    """Hands out jobs to the threads of servers."""

    def __init__(self, jobs: Iterable[Job], servers: Iterable[str]) -> None:
        self.servers = set(servers)
        self.lock = threading.Lock()
        self.group_of: dict[str, Group] = {}  # by id
        self.at: dict[str, str] = {}  # the references that a server had last
        self.out = 0  # jobs that servers have
        self.moved = time.monotonic()  # when a job was last taken or brought back
        groups: dict[tuple[object, ...], Group] = {}
        for job in jobs:
            group = groups.setdefault((job.references, job.needs), Group(job.references))
            group.jobs.append(job)
            self.group_of[job.id] = group
        order = {references: place for place, references in enumerate(dict.fromkeys(key[0] for key in groups))}
        self.groups = sorted(groups.values(), key=lambda group: order[group.references])

    def take(self, server: str) -> Job | None:
        """The next job for a server: one with the references that it had last, else with those that no other has."""
        with self.lock:
            others = {references for other, references in self.at.items() if other != server}
            mine = self.at.get(server)
            free = (group for group in self.groups if server not in group.refused)
            group = min(
                free, key=lambda one: (one.last, one.references != mine, one.references in others), default=None
            )
            if group is None:
                return None
            job = group.jobs.popleft()
            if not group.jobs:
                self.groups.remove(group)
            self.at[server] = group.references
            self.out += 1
            self.moved = time.monotonic()
            return job

    def close(self) -> None:
        """A job that was taken is done or has failed."""
        with self.lock:
            self.out -= 1
            self.moved = time.monotonic()

    def give_back(self, job: Job, last: bool = False) -> None:
        """A job that was taken is for another server now; `last` if it may be what made the server fail."""
        with self.lock:
            if last:
                group = self.group_of[job.id]
                self.group_of[job.id] = Group(group.references, refused=dict(group.refused), last=True)
            self._put(self.group_of[job.id], job)

    def refuse(self, job: Job, server: str, reason: str) -> None:
        """A server lacks what a job that it took needs: it gets no job of that group any more."""
        with self.lock:
            group = self.group_of[job.id]
            group.refused[server] = reason
            self._put(group, job)

    def fail(self, job: Job, server: str, reason: str) -> None:
        """A job that was taken has failed: another server tries it, but not more than `MOST_TRIES` of them."""
        with self.lock:
            group = self.group_of[job.id]
            job.failed += 1
            givers_up = self.servers if job.failed >= MOST_TRIES else {server}
            refused = {**dict.fromkeys(givers_up, reason), **group.refused}
            refused.pop(server, None)
            refused[server] = reason  # the last
            group = self.group_of[job.id] = Group(group.references, refused=refused, last=group.last)
            self._put(group, job)

    def gone(self, server: str) -> None:
        """A server has lost what it had."""
        with self.lock:
            self.at.pop(server, None)

    def hopeless(self) -> list[tuple[Job, str, str | None]]:
        """Takes out the jobs that every server has refused, each with a reason and the server that was last."""
        with self.lock:
            none_left = [group for group in self.groups if self.servers <= group.refused.keys()]
            self.groups = [group for group in self.groups if group not in none_left]
            return [(job, *verdict(group)) for group in none_left for job in group.jobs]

    def rest(self) -> list[tuple[Job, str, str | None]]:
        """The jobs that nobody has, each with why and by which server it was refused; no reason where none did."""
        with self.lock:
            return [(job, *verdict(group)) for group in self.groups for job in group.jobs]

    @property
    def empty(self) -> bool:
        """Whether every job is done or has failed."""
        with self.lock:
            return not self.groups and not self.out

    def _put(self, group: Group, job: Job) -> None:
        group.jobs.appendleft(job)
        if group not in self.groups:
            self.groups.insert(0, group)
        self.out -= 1
        self.moved = time.monotonic()


def verdict(group: Group) -> tuple[str, str | None]:
    """Why servers will not do the jobs of a group, and the last of them."""
    return "; ".join(dict.fromkeys(group.refused.values())), next(reversed(group.refused), None)
