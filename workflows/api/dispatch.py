"""Run a job list on servers, each with a thread of its own, and note what becomes of every job."""

from __future__ import annotations

import signal
import threading
import time
from argparse import Namespace

from comfy_server import TAKE_BACK_S, Server
from job_list import Job, read_jobs
from job_queue import JobQueue
from manifest import NAME, Manifest, make_folder
from progress import Progress
from read_workflow import note
from server_thread import POLL_S, ServerThread

END_S = 2 * TAKE_BACK_S  # for threads to end


def run_list(given: Namespace) -> int:
    """Check a list, do what is not done, and say how many; returns the exit status."""
    jobs = read_jobs(given.jobs, given, note)
    make_folder(given.output)
    manifest = Manifest(given.output, (job.id for job in jobs))
    todo = [job for job in jobs if not manifest.has(job)]
    changed = sum(manifest.changed(job) for job in todo)
    if changed:
        note(f"{changed} jobs were done with other options; their pictures are replaced (another --output keeps them)")
    progress = Progress(len(todo), len(jobs) - len(todo))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        finished = not todo or Dispatch(todo, given, manifest, progress).run()
    finally:
        signal.signal(signal.SIGTERM, before)
        progress.end()
    if not finished:
        print("Stopped; the same command goes on from here.")
    print(progress.summary())
    if progress.done or progress.skipped:
        print(f"The pictures are in {given.output}; {NAME} there has a line for each job.")
    return 0 if finished and progress.done == len(todo) else 1


class Dispatch:
    """What all threads share: the jobs, and where their results go."""

    def __init__(self, jobs: list[Job], given: Namespace, manifest: Manifest, progress: Progress) -> None:
        self.queue = JobQueue(jobs, given.server)
        self.manifest, self.progress = manifest, progress
        self.stall_limit_s, self.wait_s = given.stall_limit, given.wait
        self.stop = threading.Event()
        self.error: BaseException | None = None  # of this program, or of the disk
        self.threads = [ServerThread(Server(url, given.answer_limit), self) for url in given.server]

    def run(self) -> bool:
        """Run everything; returns False if it was stopped by Ctrl-C."""
        for thread in self.threads:
            thread.start()
        finished = False
        try:
            while not self._over():
                self.stop.wait(POLL_S)
            finished = True
        except KeyboardInterrupt:
            self.progress.say("Stopping: what the servers have of this list is taken back.")
        finally:
            self.stop.set()
            end = time.monotonic() + END_S
            for thread in self.threads:
                thread.join(max(0.0, end - time.monotonic()))
        if self.error:
            raise self.error
        for job, reason, server in self.queue.rest() if finished else ():
            if reason:
                self.failed(job, reason, server)
        return finished

    def _over(self) -> bool:
        if self.error or self.queue.empty:
            return True
        if self.queue.out or any(thread.state == "asked" for thread in self.threads):
            return False
        if time.monotonic() - self.queue.moved > self.wait_s:
            self.progress.say("No server is left for the jobs that are left.")
            return True
        return False

    def done(self, job: Job, server: str, seconds: float, files: dict[str, bytes], told: list[str]) -> None:
        """Save a job's pictures and note them."""
        self.manifest.save(files)
        self.manifest.note(job, server=server, seconds=round(seconds, 2), files=list(files), error=None, told=told)
        self.queue.close()
        self.progress.job(f"{job.id}: {seconds:.1f} s on {server}")

    def failed(self, job: Job, reason: str, server: str | None = None) -> None:
        """Note a job that no server will do, with the server that tried it last."""
        self.manifest.note(job, server=server, seconds=None, files=[], error=reason, told=[])
        self.progress.job(f"{job.id} (line {job.line}) failed: {reason}", failed=True)
