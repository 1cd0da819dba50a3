"""Make the pictures of a job list on a Ray cluster, each GPU with a ComfyUI of its own.

    python on_ray.py magicface_words.json --jobs jobs.csv --output s3://bucket/pictures --comfyui /opt/ComfyUI

Needs Ray here and on every node (pip install "ray[data]"), and the Python files beside this one. The list is that of
`queue_workflow.py`, checked whole before anything is sent; docs/scale.md tells when to use which. Ray hands out blocks
of jobs, restarts what has died and runs its blocks again; a job whose result is there is never run again. Without a
cluster (--address, or RAY_ADDRESS) Ray is started on this machine for as long as the list takes.

Exit status: 0 = done; 1 = not all jobs are done; 2 = wrong input.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import signal
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comfy_server import RunError, address
from job_list import Job, build, read_jobs
from job_options import add_limits, add_options
from picture_maker import Maker, Plan, Row
from progress import Progress
from read_workflow import InputError, note
from result_store import ResultStore

HERE = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and run the list; returns the exit status."""
    given = parser().parse_args(arguments)
    missing = [name for name in ("ray", "fsspec", "pyarrow") if importlib.util.find_spec(name) is None]
    if missing:
        print(f'on_ray.py needs {missing[0]}, which is not installed here: pip install "ray[data]"', file=sys.stderr)
        return 2
    try:
        servers = list(dict.fromkeys(map(address, given.server or ())))
        jobs = read_jobs(given.jobs, given, note)
        store = ResultStore(given.output)
        todo = store.open(jobs)
        progress = Progress(len(todo), len(jobs) - len(todo))
        plan = Plan(store, servers, given.comfyui or "", shlex.split(given.flags),
                    given.answer_limit, given.stall_limit, given.wait)  # fmt: skip
        if todo:
            run(todo, plan, given, progress)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(progress.summary())
    print(f"The pictures are in {store.address}; results and failed there have a file for each job.")
    return 0 if progress.done == len(todo) else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Make the pictures of a job list on a Ray cluster.")
    made.add_argument("--jobs", type=Path, metavar="FILE", required=True, help="CSV or JSON lines, one job a line")
    add_options(made)
    made.add_argument("--output", default="output", metavar="FOLDER",
                      help="where the pictures go: a folder that all nodes see, or an address of fsspec such as"
                      " s3://bucket/folder; %(default)s")  # fmt: skip
    add_limits(made)
    group = made.add_argument_group("cluster")
    group.add_argument("--address", help="of the cluster; 'local' starts Ray here even if a cluster runs")
    group.add_argument("--comfyui", type=lambda folder: str(Path(folder).absolute()), metavar="FOLDER",
                       help="ComfyUI on every node; a node's own COMFYUI_PATH. Not with --server")  # fmt: skip
    group.add_argument("--flags", default="", help="further arguments of ComfyUI, in one text, as --flags=--lowvram")
    group.add_argument("--actors", type=int, metavar="NUMBER",
                       help="how many at once; the GPUs of the cluster / --gpus, or one for each --server")  # fmt: skip
    group.add_argument("--gpus", type=float, default=1.0, metavar="NUMBER",
                       help="of each actor that starts ComfyUI; %(default)s, and 0 for CPUs")  # fmt: skip
    group.add_argument("--block", type=int, default=16, metavar="NUMBER",
                       help="jobs with the same references that an actor gets at a time; %(default)s")  # fmt: skip
    return made


def run(todo: list[Job], plan: Plan, given: argparse.Namespace, progress: Progress) -> None:
    """Run jobs on the cluster, whose progress Ray shows, and count."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    here = {"working_dir": str(HERE), "excludes": ["*", "!.", "!*.py"]}  # nodes import what this does
    ray.init(address=given.address, runtime_env=here, include_dashboard=False)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        for row in pipeline(todo, plan, given).iter_rows():
            progress.done += not row["error"]
            progress.failed += bool(row["error"])
            if row["error"]:
                print(f"{row['id']} (line {row['line']}) failed: {row['error']}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.")
    except ray.exceptions.RayError as error:
        # The cause comes last, after the places where it was passed on.
        raise RunError(re.split(r"\n(?=[\w.]+(?:Error|Fault): )", str(error))[-1]) from None
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.shutdown()


def pipeline(todo: list[Job], plan: Plan, given: argparse.Namespace) -> Any:
    """The jobs as a dataset of Ray, whose rows say what became of them."""
    import ray

    context = ray.data.DataContext.get_current()
    context.actor_task_retry_on_errors = True  # a Maker raises until it gives a block up
    gpus = 0.0 if plan.servers else given.gpus
    actors = given.actors or len(plan.servers) or (int(ray.cluster_resources().get("GPU", 0) / gpus) if gpus else 1)
    if not actors:
        raise InputError("the cluster has no GPU; --gpus 0 --actors NUMBER uses its CPUs")
    pictures: dict[str, Any] = {}
    rows = [{"block": block} for block in blocks(todo, given.block, pictures)]
    pictures = {name: ray.put(file.read_bytes()) for name, file in pictures.items()}
    return ray.data.from_items(rows, override_num_blocks=len(rows)).flat_map(
        Maker,
        fn_constructor_args=(plan, pictures),
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=0,  # an actor waits for its server most of the time
        num_gpus=gpus,
    )


def blocks(todo: list[Job], size: int, pictures: dict[str, Path]) -> Iterator[bytes]:
    """Jobs as text, in blocks whose references are the same; notes the pictures that they need by name."""
    groups: dict[str, list[Job]] = {}
    for job in todo:
        groups.setdefault(job.references, []).append(job)
    for group in groups.values():
        for start in range(0, len(group), size):
            block: list[Row] = []
            for job in group[start : start + size]:
                prompt, uploads = build(job)
                pictures |= {upload.picture.name: upload.picture.file for upload in uploads}
                block.append({"id": job.id, "line": job.line, "seed": job.given.seed, "digest": job.digest})
                block[-1]["prompt"] = prompt
            yield zlib.compress(json.dumps(block).encode())


if __name__ == "__main__":
    sys.exit(main())
