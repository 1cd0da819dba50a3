"""Read a job list and check all of it, against its workflows and files, before anything is queued."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edit_workflow import Upload, change, upstream
from job_options import OPTIONS, Option
from job_rows import Faults, read_rows
from read_workflow import InputError, Prompt, read

# Safe as a file name on every system: no separators, no space or dot at an end, no name of a device of Windows.
ID = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))\w([\w .+=@-]{0,98}\w)?", re.IGNORECASE)


@dataclass
class Job:
    """One picture to make, or several if the workflow makes several in one run.

    Attributes:
        id: the name of its files.
        line: in the job list.
        given: the options.
        digest: of the whole prompt, pictures by their content; equal digests mean equal pictures.
        references: a digest of the references alone, so that jobs which share them can follow each other.
        needs: equal for jobs that need the same of a server.
    """

    id: str
    line: int
    given: Namespace
    digest: str = ""
    references: str = ""
    needs: tuple[Any, ...] = ()
    lost: int = 0  # how often it ran when its server was lost
    failed: int = 0  # on how many servers


def read_jobs(file: Path, defaults: Namespace, tell: Callable[[str], None]) -> list[Job]:
    """All jobs of a list, each checked.

    Args:
        file: CSV or JSON lines.
        defaults: the options of the command line, which hold for jobs that do not say otherwise.
        tell: is called with each decision that the person who calls may not expect.

    Raises:
        InputError: with the line of each fault.
    """
    workflow.cache_clear()
    faults = Faults(file)
    rows = list(read_rows(file, faults))
    faults.raise_if_any()
    jobs = []
    for line, row in rows:
        try:
            jobs += jobs_of(line, row, defaults, file.parent)
        except (InputError, argparse.ArgumentTypeError) as error:
            faults.add(line, error)
    if not rows:
        raise InputError(f"{file} has no jobs")
    check_ids(jobs, faults)
    told: dict[str, int] = {}
    for job in jobs:
        try:
            for text in describe(job):
                told.setdefault(text, job.line)
        except InputError as error:
            faults.add(job.line, error)
    faults.raise_if_any()
    for text, line in told.items():
        tell(f"line {line}: {text}")
    return jobs


def jobs_of(line: int, row: dict[str, Any], defaults: Namespace, folder: Path) -> list[Job]:
    """The jobs of a line: one for each seed."""
    given = Namespace(**vars(defaults))
    if "workflow" in row:
        given.workflow = folder / text_of("workflow", row["workflow"])
    if given.workflow is None:
        raise InputError("no workflow: name one in the command, or in a column 'workflow'")
    for option in OPTIONS:
        mine = [option.parse(text) for text in texts(option, row, folder)]
        if option.key:
            keys = [one[:-1] for one in mine]
            setattr(given, option.name, [one for one in getattr(defaults, option.name) if one[:-1] not in keys] + mine)
        elif mine:
            setattr(given, option.name, mine[0])
    name = text_of("id", row.get("id", f"line-{line}")).strip()
    if not ID.fullmatch(name):
        raise InputError(
            f"the id {name!r} cannot be a file's name: letters, digits, _ and, inside, spaces and . - + = @"
        )
    if given.seed is None:
        return [Job(name, line, given)]
    one = len(given.seed) == 1
    return [Job(name if one else f"{name}-{n}", line, Namespace(**{**vars(given), "seed": n})) for n in given.seed]


def texts(option: Option, row: dict[str, Any], folder: Path) -> Iterator[str]:
    """What a row says of an option, as on the command line; files are found beside the list."""
    for column, value in row.items():
        name, _, key = column.partition(".")
        if name == option.name:
            text = text_of(column, value, option.name in ("set", "seed"))
            if option.value == "FILE":
                text = str(folder / text)
            yield f"{key}={text}" if option.key else text


def text_of(column: str, value: Any, any_value: bool = False) -> str:
    """A cell as text; JSON may have other values where an input takes any."""
    if isinstance(value, str):
        return value
    if any_value or (column == "id" and type(value) is int):
        return json.dumps(value)
    raise InputError(f"{column} is {json.dumps(value)} instead of a text")


def check_ids(jobs: list[Job], faults: Faults) -> None:
    """Note ids whose files would have the same names."""
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(job.id.casefold(), job)
        if other is not job:
            faults.add(job.line, f"the id {job.id!r} is that of line {other.line} too")
    for job in jobs:
        found = re.fullmatch(r"(.+)_\d+", job.id)
        if found and found[1].casefold() in first:
            faults.add(job.line, f"the id {job.id!r} would be the name of another picture of {found[1]!r}")


@cache
def workflow(file: Path) -> Prompt:
    """A workflow, which is read once."""
    return read(file)


def build(job: Job, tell: Callable[[str], None] = lambda text: None) -> tuple[Prompt, list[Upload]]:
    """A job's prompt, with the pictures named by their content, and the pictures."""
    prompt = copy.deepcopy(workflow(job.given.workflow))
    uploads = change(prompt, job.given, tell)
    for upload in uploads:
        upload.inputs["image"] = upload.picture.name
    return prompt, uploads


def describe(job: Job) -> list[str]:
    """Check a job against its workflow and files, find out what it shares with others; returns what is to be told."""
    told: list[str] = []
    prompt, _ = build(job, told.append)
    references = [node_id for node_id, node in prompt.items() if node["class_type"] == "MagicFaceReference"]
    shared = set(references).union(*(upstream(prompt, node_id) for node_id in references))
    job.digest = digest(prompt)
    job.references = digest({node_id: prompt[node_id] for node_id in shared})
    job.needs = (job.given.workflow, *job.given.set)
    return told


def digest(prompt: Prompt) -> str:
    """A short name of what the nodes compute; their titles do not count."""
    nodes = {node_id: (node["class_type"], node["inputs"]) for node_id, node in prompt.items()}
    return hashlib.sha256(json.dumps(nodes, sort_keys=True).encode()).hexdigest()[:16]
