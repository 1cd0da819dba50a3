"""Runs a list of jobs by the API client, in a process of its own, and reads what became of them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools.pins import ROOT

from .errors import TrialError

SCRIPT = ROOT / "workflows" / "api" / "queue_workflow.py"
WRONG_INPUT = 2  # the client's exit status
END_S = 10  # for the client to take back what the server has


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        files: the pictures that it saved, in their order; none if it failed.
        seconds: on the server; None if it failed.
        told: what nodes said, without their names.
        error: why it failed; None if it did not.
    """

    files: tuple[Path, ...]
    seconds: float | None
    told: tuple[str, ...]
    error: str | None


def run_jobs(url: str, folder: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Outcome]:
    """Do what is not done of a list.

    Args:
        url: the server's address.
        folder: for the list, the pictures and the manifest.
        rows: the jobs.

    Returns:
        The outcomes by id.

    Raises:
        TrialError: the list is refused, or nothing became of a job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made, jobs = folder / "made", folder / "jobs.jsonl"
    jobs.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    command = [sys.executable, str(SCRIPT), "--jobs", str(jobs), "--server", url, "--output", str(made)]
    if _status(command) == WRONG_INPUT:
        raise TrialError("the job list was refused; see above")
    found = _outcomes(made)
    missing = [row["id"] for row in rows if row["id"] not in found]
    if missing:
        raise TrialError(f"{len(missing)} of {len(rows)} jobs were not done; the same command goes on from here")
    outcomes = {row["id"]: found[row["id"]] for row in rows}
    if all(outcome.error for outcome in outcomes.values()):
        raise TrialError(f"every job failed: {next(iter(outcomes.values())).error}")
    return outcomes


def _status(command: list[str]) -> int:
    """Run a command to its end, and return its exit status."""
    # Its progress and errors are on stderr; what it says of its own folder would look like the end of the trial.
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)  # Ctrl-C reached it too
            raise
        finally:
            if process.poll() is None:
                process.terminate()


def _outcomes(folder: Path) -> dict[str, Outcome]:
    """What the last line of each job in a manifest says."""
    manifest = folder / "manifest.jsonl"
    found = {}
    for line in manifest.read_text(encoding="utf-8").splitlines() if manifest.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut off
        files = tuple(folder / name for name in entry["files"] if "/" not in name)  # others were shown only
        told = tuple(text.partition(": ")[2] for text in entry.get("told") or ())
        error = " ".join(entry["error"].split()) if entry["error"] else None
        found[entry["id"]] = Outcome(files, entry["seconds"], told, error)
    return found
