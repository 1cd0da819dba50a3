"""Where jobs that run on many machines put their results: a folder that all of them see, or an address of fsspec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from job_list import Job
from manifest import NAME, write_whole
from read_workflow import InputError

RESULTS, FAILED = "results", "failed"


class ResultStore:
    """Pictures by the ids of their jobs, and a file for each job in `results` or `failed`.

    The name of a result has the digest of its job, so that a list of names tells which jobs are done.
    """

    def __init__(self, address: str) -> None:
        """
        Args:
            address: a folder, or an address such as s3://bucket/folder, for which fsspec needs a package of its own.

        Raises:
            InputError: fsspec cannot use it.
        """
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.address = address if "://" in address else str(Path(address).absolute())
        try:
            self.files, self.root = url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise InputError(f"--output {address}: {error}") from None
        self.local = isinstance(self.files, LocalFileSystem)

    def __reduce__(self) -> tuple[type[ResultStore], tuple[str]]:
        return ResultStore, (self.address,)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, which is there with all its bytes or not at all: stores of objects write them whole."""
        if self.local:
            write_whole(Path(self.root) / name, data)
        else:
            self.files.pipe_file(f"{self.root}/{name}", data)

    def note(self, job_id: str, digest: str, entry: dict[str, Any]) -> None:
        """Note what became of a job, after its pictures."""
        name = f"{FAILED}/{job_id}.json" if entry["error"] else result_name(job_id, digest)
        self.write(name, json.dumps({"id": job_id, **entry, "digest": digest}, ensure_ascii=False).encode())

    def has(self, job_id: str, digest: str) -> bool:
        """Whether a job is done."""
        return bool(self.files.exists(f"{self.root}/{result_name(job_id, digest)}"))

    def open(self, jobs: list[Job]) -> list[Job]:
        """The jobs that are not done; forgets what there is of them.

        Raises:
            InputError: the folder is of `queue_workflow.py`, or has files that these jobs would replace.
        """
        there = [path[len(self.root) :].lstrip("/") for path in self.files.find(self.root)]
        if NAME in there:
            raise InputError(f"--output {self.address} is a folder of queue_workflow.py; name another")
        noted = {name.partition("/")[2] for name in there if name.startswith(f"{RESULTS}/")}
        todo = [job for job in jobs if result_name(job.id, job.digest).partition("/")[2] not in noted]
        ids = {job.id for job in todo}
        stems = {name.rpartition(".")[0] for name in there if "/" not in name}
        if not any(name.startswith((f"{RESULTS}/", f"{FAILED}/")) for name in there) and (taken := stems & ids):
            raise InputError(f"--output {self.address} has a file {min(taken)!r} that is not of a job list")
        old = [f"{RESULTS}/{name}" for name in noted if name.rsplit(".", 2)[0] in ids]
        old += [name for name in there if name.startswith(f"{FAILED}/") and Path(name).stem in ids]
        if old:
            self.files.rm([f"{self.root}/{name}" for name in old])
        return todo


def result_name(job_id: str, digest: str) -> str:
    """The name of the file that says that a job is done."""
    return f"{RESULTS}/{job_id}.{digest}.json"
