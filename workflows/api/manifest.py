"""The output folder of a job list: whole pictures only, and a line in `manifest.jsonl` for each job."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from job_list import Job
from read_workflow import InputError

NAME = "manifest.jsonl"
SHOWN = "shown"  # the folder of pictures that a workflow shows but does not save


class Manifest:
    """What the jobs of a folder came to: the last line with an id counts."""

    def __init__(self, folder: Path, ids: Iterable[str]) -> None:
        """
        Raises:
            InputError: the folder has no manifest, but files that jobs with these ids would replace.
        """
        self.folder = folder
        self.file = folder / NAME
        self.lock = threading.Lock()
        self.entries: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            self._read()
        elif there := {file.stem for file in folder.iterdir() if file.is_file()}.intersection(ids):
            name = min(there)
            raise InputError(f"--output {folder} has a file {name!r} that is not of a job list; name another folder")
        else:
            self.file.touch()

    def _read(self) -> None:
        data = self.file.read_bytes()
        for line in data.decode("utf-8", errors="replace").split("\n"):
            try:
                entry = json.loads(line)
                self.entries[entry["id"]] = entry
            except (ValueError, LookupError, TypeError):
                continue  # a line that was cut off: its job is done again
        if data and not data.endswith(b"\n"):
            with self.file.open("ab") as file:
                file.write(b"\n")

    def has(self, job: Job) -> bool:
        """Whether a job is done, as it is now, and all pictures are there that it saved."""
        entry = self.entries.get(job.id)
        if not entry or entry.get("error") or entry.get("digest") != job.digest:
            return False
        files = entry.get("files", ())
        saved = [name for name in files if not name.startswith(f"{SHOWN}/")] or files
        return all((self.folder / name).is_file() for name in saved)

    def changed(self, job: Job) -> bool:
        """Whether a job was done with other options than now."""
        entry = self.entries.get(job.id)
        return entry is not None and not entry.get("error") and entry.get("digest") != job.digest

    def save(self, files: dict[str, bytes]) -> None:
        """Write pictures by their names; each is there with all its bytes, or not at all."""
        for name, data in files.items():
            target = self.folder / name
            target.parent.mkdir(exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)

    def note(self, job: Job, **result: Any) -> None:
        """Add a line for a job."""
        entry = {"id": job.id, "seed": job.given.seed, **result, "digest": job.digest}
        with self.lock, self.file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self.entries[job.id] = entry


def make_folder(folder: Path) -> None:
    """The output folder, made before anything is queued."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder} cannot be a folder: {error.strerror}") from None


def names(job_id: str, files: Iterable[tuple[str, dict[str, str]]]) -> list[str]:
    """The names of a job's files: its id, and a number from the second on.

    Args:
        job_id: the id.
        files: the class of the node, and ComfyUI's entry, of each file. What is only shown has the class in its name,
            and is in a folder of its own.
    """
    stems: list[str] = []
    made = []
    for class_type, file in files:
        shown = file.get("type") == "temp"
        stems.append(f"{SHOWN}/{job_id}_{re.sub(r'[^A-Za-z0-9]+', '-', class_type)}" if shown else job_id)
        number = stems.count(stems[-1])
        ending = Path(file["filename"].replace("\\", "/")).suffix
        made.append(f"{stems[-1]}{f'_{number}' if number > 1 else ''}{ending}")
    return made
