"""The thread of one server: keeps two jobs there, and brings back what becomes of them."""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING

from comfy_server import Need, Refusal, RunError, Server, ServerFault, failure, lacks, needed, seconds, shown
from job_list import Job, build
from manifest import names
from read_workflow import InputError, Picture, Prompt

if TYPE_CHECKING:
    from dispatch import Dispatch

AT_A_TIME = 2  # the second waits on the server while pictures of the first are fetched
POLL_S = 0.3
MOST_LOST = 3  # a job that ran so often when its server was lost may be the reason
FIRST_DELAY_S, LAST_DELAY_S = 1.0, 30.0  # before a server that is gone is asked again


class ServerThread(threading.Thread):
    """Gives one server its jobs.

    Attributes:
        state: "asked" before its first answer, then "there" or "gone".
        jobs: what the server has, by prompt id.
        lost: ids of prompts that it may still have though their jobs were given back.
        lacking: what it said that it lacks, and how it said so.
        uploaded: names of pictures on the server, by their names here.
        running: the prompts that it ran when it was last asked, and those that were sent since.
        moved: when its queue last moved.
    """

    def __init__(self, server: Server, dispatch: Dispatch) -> None:
        super().__init__(daemon=True)
        self.server, self.dispatch, self.queue = server, dispatch, dispatch.queue
        self.state = "asked"
        self.jobs: dict[str, tuple[Job, Prompt]] = {}
        self.lost: list[str] = []
        self.lacking: dict[Need, str] = {}
        self.uploaded: dict[str, str] = {}
        self.running: set[str] = set()
        self.moved = time.monotonic()

    def run(self) -> None:
        """Serve until told to stop, then take back what the server has."""
        try:
            while not self.dispatch.stop.is_set():
                try:
                    self._look()
                    self._fill()
                    self.dispatch.stop.wait(POLL_S)
                except RunError as error:
                    self._lose(str(error))
                    self._wait_until_back()
            self.server.take_back([*self.jobs, *self.lost])
        except RunError:
            pass  # it stopped answering while its jobs were taken back
        except BaseException as error:
            self.dispatch.error = error

    def _look(self) -> None:
        """Bring back the jobs that have ended."""
        running, waiting = self.server.queued()
        self.state = "there"
        ended = [prompt_id for prompt_id in self.jobs if prompt_id not in running | waiting]
        if ended or running != self.running or not self.jobs:
            self.running, self.moved = running, time.monotonic()
        elif time.monotonic() - self.moved > self.dispatch.stall_limit_s:
            raise ServerFault(f"the queue of {self.server.url} has not moved for {self.dispatch.stall_limit_s:.0f} s")
        for prompt_id in ended:
            self._finish(prompt_id)

    def _finish(self, prompt_id: str) -> None:
        job, prompt = self.jobs[prompt_id]
        entry = self.server.history(prompt_id)
        if not entry:
            self.uploaded.clear()  # it may be another machine now
            self._bring_back(prompt_id, f"the run is gone from {self.server.url}", ran=True)
            return
        with self.server.understood():
            reason = failure(entry)
            items, told = shown(prompt, entry)
        files: dict[str, bytes] = {}
        if not reason:
            try:
                files = {
                    name: self.server.fetch(item) for name, (_, item) in zip(names(job.id, items), items, strict=True)
                }
                reason = "" if files else "no node of the workflow saves or shows a picture"
            except Refusal as refusal:
                reason = str(refusal)
        del self.jobs[prompt_id]
        if reason:
            self.queue.fail(job, self.server.url, reason)
        else:
            self.dispatch.done(job, self.server.url, seconds(entry), files, told)

    def _fill(self) -> None:
        """Give the server as many jobs as it may have; jobs that no server will do have failed."""
        while len(self.jobs) < AT_A_TIME and not self.dispatch.stop.is_set():
            job = self.queue.take(self.server.url)
            if job is None:
                break
            self._start(job)
        for job, reason, server in self.queue.hopeless():
            self.dispatch.failed(job, reason, server)

    def _start(self, job: Job) -> None:
        try:
            prompt, uploads = build(job)
        except InputError as error:  # a file has changed since it was checked
            self.queue.close()
            self.dispatch.failed(job, str(error))
            return
        need = needed(prompt, self.lacking)
        if need is not None:
            self.queue.refuse(job, self.server.url, self.lacking[need])
            return
        prompt_id = str(uuid.uuid4())  # known before it is sent: then it can be taken back in any case
        self.jobs[prompt_id] = job, prompt
        self.running.add(prompt_id)
        try:
            for upload in uploads:
                upload.inputs["image"] = self._uploaded(upload.picture)
            queued = self.server.queue(prompt, prompt_id)
        except Refusal as refusal:
            del self.jobs[prompt_id]
            self._refused(job, prompt, refusal)
        else:
            self.jobs[queued] = self.jobs.pop(prompt_id)

    def _uploaded(self, picture: Picture) -> str:
        """The name of a picture on the server; it is sent once."""
        if picture.name not in self.uploaded:
            self.uploaded[picture.name] = self.server.upload(picture.name, picture.file.read_bytes())
        return self.uploaded[picture.name]

    def _refused(self, job: Job, prompt: Prompt, refusal: Refusal) -> None:
        lacking = lacks(refusal.answer, prompt)
        if not lacking:
            self.queue.fail(job, self.server.url, str(refusal))
            return
        if not lacking <= self.lacking.keys():
            self.dispatch.progress.say(f"{refusal}\n  {self.server.url} is left out of the jobs that need this.")
        self.lacking.update(dict.fromkeys(lacking, str(refusal)))
        self.queue.refuse(job, self.server.url, str(refusal))

    def _lose(self, reason: str) -> None:
        """Give all jobs of the server to the others."""
        given_back = f"Its {len(self.jobs)} jobs are given to the others; it" if self.jobs else "It"
        self.dispatch.progress.say(f"{reason}\n  {given_back} is asked again.")
        self.state = "gone"
        for prompt_id in list(self.jobs):
            self.lost.append(prompt_id)
            self._bring_back(prompt_id, reason, ran=prompt_id in self.running)
        self.uploaded.clear()
        self.queue.gone(self.server.url)

    def _bring_back(self, prompt_id: str, reason: str, ran: bool) -> None:
        job, _ = self.jobs.pop(prompt_id)
        job.lost += ran
        if job.lost < MOST_LOST:
            self.queue.give_back(job, last=ran)
        else:
            self.queue.close()
            self.dispatch.failed(job, f"lost {job.lost} times, at last: {reason}")

    def _wait_until_back(self) -> None:
        """Ask again and again, until the server has nothing of what was given back."""
        delay_s = FIRST_DELAY_S
        while not self.dispatch.stop.wait(delay_s):
            delay_s = min(2 * delay_s, LAST_DELAY_S)
            try:
                has_none = self.server.take_back(self.lost)
            except RunError:
                continue
            if has_none:
                self.lost.clear()
                self.state, self.moved = "there", time.monotonic()
                self.dispatch.progress.say(f"{self.server.url} answers.")
                return
