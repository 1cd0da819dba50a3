"""Makes blocks of jobs on a ComfyUI, in an actor of a cluster: where that ends, the block is run again."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import zlib
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from comfy_process import ComfyProcess
from comfy_server import Refusal, RunError, Server, ServerFault, failure, seconds, shown
from manifest import names
from result_store import ResultStore
from server_thread import AT_A_TIME, MOST_LOST

POLL_S = 0.2
MOST_FAULTS = 20  # without a block done in between: what comes after is given up at its first

Row = dict[str, Any]
Item = tuple[str, dict[str, str]]  # class of a node, and ComfyUI's entry of a file


@dataclass(frozen=True)
class Plan:
    """What every actor is told."""

    store: ResultStore
    servers: list[str]  # that run already; empty to start one
    comfyui: str  # its folder; empty for COMFYUI_PATH of the node
    flags: list[str]
    answer_limit_s: float
    stall_limit_s: float
    wait_s: float


@dataclass
class Run:
    """A job that a server has, or refused."""

    job: Row
    prompt_id: str = ""
    error: str = ""


class Maker:
    """What an actor does: it makes the jobs of a block one after another, on its own ComfyUI or on one that runs."""

    def __init__(self, plan: Plan, pictures: dict[str, Any]) -> None:
        """
        Args:
            plan: what to do.
            pictures: references of Ray to the bytes, by the names that they have in prompts.
        """
        self.plan, self.pictures = plan, pictures
        self.lost: Counter[str] = Counter()
        self.faults = 0  # since a block was done
        self.uploaded: dict[tuple[str, str], str] = {}
        self.own: ComfyProcess | None = None
        if not plan.servers:
            self.own = ComfyProcess(plan.comfyui or os.environ.get("COMFYUI_PATH", ""), plan.flags)
            self.own.start()

    def __del__(self) -> None:
        own: ComfyProcess | None = getattr(self, "own", None)
        if own is not None:
            own.stop()

    def __call__(self, row: Row) -> list[Row]:
        """What became of the jobs of a block.

        Raises:
            Exception: a server or the store is lost; Ray calls again, and the jobs that are done are passed over.
        """
        block = json.loads(zlib.decompress(row["block"]))
        todo = [job for job in block if not self.plan.store.has(job["id"], job["digest"])]
        try:
            self._make(self._server(), todo)
            self.faults = 0
        except Exception as error:
            print(error, file=sys.stderr)
            self.faults += 1
            if self.faults < MOST_FAULTS:
                raise
            for job in todo:
                job.setdefault("error", f"given up: {error}")
        return [{"id": job["id"], "line": job["line"], "error": job.get("error", "")} for job in block]

    def _make(self, server: Server, todo: list[Row]) -> None:
        ahead: deque[Run] = deque()
        job = todo[0] if todo else {}
        try:
            for job in todo:
                ahead.append(self._queue(server, job))
                if len(ahead) == AT_A_TIME:
                    self._finish(server, ahead[0])
                    ahead.popleft()
            while ahead:
                self._finish(server, ahead[0])
                ahead.popleft()
        except ServerFault:
            self.lost[ahead[0].job["id"] if ahead else job["id"]] += 1
            if self.own:
                self.own.stop()
            raise

    def _server(self) -> Server:
        """The actor's own server, started again where it has ended, or the one with the shortest queue."""
        if self.own:
            if not self.own.runs:
                self.own.start()
            return Server(self.own.url, self.plan.answer_limit_s)
        servers = [Server(url, self.plan.answer_limit_s) for url in self.plan.servers]
        end = time.monotonic() + (self.plan.wait_s if self.faults < MOST_FAULTS else 0.0)
        while True:
            lengths = {}
            for server in random.sample(servers, len(servers)):
                try:
                    lengths[server] = sum(map(len, server.queued()))
                except RunError as error:
                    reason = str(error)
            if lengths:
                return min(lengths, key=lambda server: lengths[server])
            if time.monotonic() >= end:
                self.faults = MOST_FAULTS
                raise ServerFault(f"no server answers; the last: {reason}")
            time.sleep(1.0)

    def _queue(self, server: Server, job: Row) -> Run:
        if self.lost[job["id"]] >= MOST_LOST:
            return Run(job, error=f"its server was lost {MOST_LOST} times with it")
        try:
            for node in job["prompt"].values():
                name = node["inputs"].get("image")
                if isinstance(name, str) and name in self.pictures:
                    node["inputs"]["image"] = self._uploaded(server, name)
            return Run(job, server.queue(job["prompt"]))
        except Refusal as refusal:
            return Run(job, error=str(refusal))

    def _uploaded(self, server: Server, name: str) -> str:
        import ray

        key = server.url, name
        if key not in self.uploaded:
            self.uploaded[key] = server.upload(name, ray.get(self.pictures[name]))
        return self.uploaded[key]

    def _finish(self, server: Server, run: Run) -> None:
        """Wait for a run, and write its pictures and its result."""
        job, files = run.job, dict[str, bytes]()
        result: Row = {"line": job["line"], "seed": job["seed"], "server": server.url, "seconds": None}
        if not run.error:
            entry = self._wait(server, run)
            with server.understood():
                run.error, result["seconds"] = failure(entry), round(seconds(entry), 2)
                items, result["told"] = shown(job["prompt"], entry)
            if not run.error:
                files, run.error = self._fetched(server, job["id"], items)
            if self.own is not None:
                for _, item in items:
                    self.own.forget(item)
        for name, data in files.items():
            self.plan.store.write(name, data)
        job["error"] = run.error
        self.plan.store.note(job["id"], job["digest"], {**result, "files": list(files), "error": run.error or None})

    def _fetched(self, server: Server, job_id: str, items: list[Item]) -> tuple[dict[str, bytes], str]:
        """A run's pictures by their names, or what is wrong with them."""
        try:
            files = {name: server.fetch(item) for name, (_, item) in zip(names(job_id, items), items, strict=True)}
        except Refusal as refusal:
            return {}, str(refusal)
        return files, "" if files else "no node of the workflow saves or shows a picture"

    def _wait(self, server: Server, run: Run) -> Row:
        """The entry of a run in the history, when it has ended."""
        began = time.monotonic()  # what was queued before it has ended
        while True:
            queued = set[str]().union(*server.queued())
            entry = server.history(run.prompt_id)
            if entry:
                return entry
            if run.prompt_id not in queued:
                raise ServerFault(f"the run is gone from {server.url}")
            if time.monotonic() - began > self.plan.stall_limit_s:
                raise ServerFault(f"{server.url} has not ended a run for {self.plan.stall_limit_s:.0f} s")
            time.sleep(POLL_S)
