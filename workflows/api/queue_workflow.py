"""Queue a workflow of this folder on a running ComfyUI, with other pictures, prompt and seed.

    python queue_workflow.py magicface_two_concepts.json --server http://127.0.0.1:8188 \\
        --picture hat=my_hat.png --mask hat=my_hat_mask.png --caption hat="a straw hat" \\
        --prompt "a woman wearing a hat and a scarf" --seed 7 --output pictures \\
        --set CheckpointLoaderSimple.ckpt_name=my_sdxl.safetensors --set KSampler.steps=40 --set 40.weight=2

Needs Python 3.10 or later, and the Python files beside it. Pictures, masks, captions and words are given by concept,
the word that the workflow has in its MagicFace Reference, or by that node's number. Whatever the workflow saves or
shows is written to the output folder; texts that it shows are printed. Nothing is sent before every file and option has
been checked.

A list of jobs, one a line with these options as columns, on one or several servers (docs/workflows.md tells more):

    python queue_workflow.py magicface_words.json --jobs jobs.csv --server http://one:8188 --server http://two:8188

Exit status: 0 = done; 1 = the server did not answer, refused the workflow, or the run failed, or not all jobs of a list
are done; 2 = wrong input.
"""

from __future__ import annotations

import io
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from comfy_server import Refusal, RunError, Server, address, failure, shown
from dispatch import run_list
from edit_workflow import change
from job_options import parser
from manifest import make_folder
from read_workflow import InputError, Prompt, read

POLL_S = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and run one workflow, or a list of jobs; returns the exit status."""
    options = parser()
    given = options.parse_args(arguments)
    if given.workflow is None and given.jobs is None:
        options.error("a workflow is required, or --jobs")
    try:
        given.server = list(dict.fromkeys(map(address, given.server or ["http://127.0.0.1:8188"])))
        return run_list(given) if given.jobs else run_one(given)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1


def run_one(given: Namespace) -> int:
    """Check everything, then upload, queue, wait and save; returns the exit status."""
    if len(given.server) > 1:
        raise InputError("several --server need --jobs")
    if given.seed is not None:
        if len(given.seed) > 1:
            raise InputError("a range of seeds needs --jobs")
        given.seed = given.seed[0]
    server = Server(given.server[0], given.answer_limit)
    prompt = read(given.workflow)
    uploads = change(prompt, given)
    make_folder(given.output)
    try:
        for upload in uploads:
            file = upload.picture.file
            upload.inputs["image"] = server.upload(file.name, file.read_bytes())
        deliver(server, prompt, given.output)
    except KeyboardInterrupt:
        print(f"No longer waiting; what {server.url} has queued goes on there.", file=sys.stderr)
        return 1
    return 0


def deliver(server: Server, prompt: Prompt, folder: Path) -> None:
    """Run and save; what there is of a run that failed is saved too."""
    entry = wait_for(server, server.queue(prompt))
    with server.understood():
        files, texts = shown(prompt, entry)
        failed = failure(entry)
        if not failed and not entry["outputs"]:
            print("the run has no outputs: no node of the workflow saves or shows anything", file=sys.stderr)
    for text in texts:
        print(text, file=sys.stderr)
    missing: list[str] = []
    for _, file in files:
        try:
            print(save(server, file, folder), flush=True)
        except Refusal as refusal:
            missing.append(f"{file['filename']}: {refusal}")
    if failed or missing:
        raise RunError(failed or "; ".join(missing))


def wait_for(server: Server, prompt_id: str) -> dict[str, Any]:
    """Wait for the end of a run, and return its entry in the history."""
    while True:
        queued = set[str]().union(*server.queued())
        entry = server.history(prompt_id)
        if entry:
            return entry
        if prompt_id not in queued:
            raise RunError(f"the run is gone from {server.url}: it was taken out of the queue, or the server restarted")
        time.sleep(POLL_S)


def save(server: Server, shown_file: dict[str, str], folder: Path) -> Path:
    """Fetch one file; another of the same name is left as it is."""
    data = server.fetch(shown_file)
    name = Path(shown_file["filename"].replace("\\", "/"))
    file, number = folder / name.name, 1
    while file.exists():
        number += 1
        file = folder / f"{name.stem}_{number}{name.suffix}"
    file.write_bytes(data)
    return file


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names that the console cannot show
    sys.exit(main())
