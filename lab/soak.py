"""`dev.py soak`: many different prompts on one server. No state may be left over; no picture may depend on others."""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from devtools.client import Client, Prompt, PromptError
from devtools.demo import PICTURES, pictures_read
from devtools.install import chosen
from devtools.model import with_model
from devtools.pins import ROOT
from devtools.server import Server, ServerError

from . import MB

WORKFLOW = ROOT / "workflows" / "api" / "magicface_two_concepts.json"
# ComfyUI then caches the outputs of the last prompt only, so that memory that grows is the pack's.
FLAGS = ("--cache-classic",)
MAX_GROWTH = 1.1  # of memory, from the warm-up to the end
PROMPT_LIMIT_S = 600  # for a prompt and those before it in the queue
SIDES_PX = (192, 224, 256, 272, 320)
SAMPLERS = ("euler", "dpmpp_2m", "heun", "euler_ancestral", "dpmpp_sde")
PROMPTS = (
    "a person with a face wearing a hat and a scarf",
    "a drawing of a person with a face, hair and a shirt, in a hat and a scarf",
    "a scarf and a hat, portrait of a person " + "with a face and hair and a shirt " * 12,
)


class SoakError(Exception):
    """State was left over, memory grew, or a new process makes another picture; the message says which."""


def main(count: int, every: int, file: Path | None) -> int:
    """Run prompts and print the figures.

    Args:
        count: number of prompts.
        every: number of prompts that are queued at a time; a new process makes the last picture of each batch again.
        file: for the figures as JSON.
    """
    if not Path("/proc").is_dir():
        print("dev.py soak: needs /proc, to read the memory of the server", file=sys.stderr)
        return 1
    install = chosen()
    try:
        with tempfile.TemporaryDirectory(prefix="magicface-soak-", ignore_cleanup_errors=True) as folder:
            with Server(install, Path(folder) / "long", flags=FLAGS) as server:
                figures, checked = run_all(server, count, every)
            for number, pixels in checked.items():
                with Server(install, Path(folder) / f"fresh_{number}", flags=FLAGS) as fresh:
                    upload(fresh.client)
                    if not np.array_equal(picture(fresh.client, prompt_number(number)), pixels):
                        raise SoakError(f"prompt {number} gives another picture in a new process")
                print(f"prompt {number}: a new process makes the same picture", flush=True)
    except (SoakError, PromptError, ServerError, OSError) as error:
        print(f"dev.py soak: {error}", file=sys.stderr)
        return 1
    figures["equal_to_fresh"] = len(checked)
    if file:
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(summary(figures))
    return 0


def run_all(server: Server, count: int, every: int) -> tuple[dict[str, Any], dict[int, Any]]:
    """Queue the first `count` prompts on a server, `every` at a time.

    Returns:
        The figures, and by prompt number the pixels of the last picture of each batch.

    Raises:
        SoakError: a run left state over, or memory grew.
    """
    client = server.client
    upload(client)
    resident, tensors, checked = [], [], {}
    started = time.monotonic()
    for first in range(0, count, every):
        numbers = range(first, min(first + every, count))
        for entry in [wait_for(client, prompt_id) for prompt_id in [client.queue(prompt_number(n)) for n in numbers]]:
            pixels = pixels_of(client, entry)
        checked[numbers[-1]] = pixels
        alive = client.get_json("/magicface_dev/alive")
        if alive["left_over"]:
            raise SoakError(f"after prompt {numbers[-1]} these objects are left over: {alive['left_over']}")
        resident.append(server.resident_bytes() // MB)
        tensors.append(alive["tensor_bytes"] // MB)
        print(f"prompt {numbers[-1] + 1} of {count}: {resident[-1]} MB, tensors {tensors[-1]} MB", flush=True)
    check_level("the process", resident)
    check_level("the tensors", tensors)
    figures = {"prompts": count, "seconds": time.monotonic() - started, "resident_mb": resident, "tensors_mb": tensors}
    return figures, checked


def check_level(what: str, levels_mb: Sequence[int]) -> None:
    """Check that memory does not grow after the warm-up: the first half, in which new shapes occur.

    Raises:
        SoakError: it grew.
    """
    warm = max(levels_mb[: -(-len(levels_mb) // 2)])
    if levels_mb[-1] > MAX_GROWTH * warm:
        raise SoakError(f"{what} grew from {warm} MB after the warm-up to {levels_mb[-1]} MB")


def summary(figures: dict[str, Any]) -> str:
    """The figures in one line of text."""
    resident, tensors = figures["resident_mb"], figures["tensors_mb"]
    return (
        f"{figures['prompts']} prompts in {figures['seconds']:.0f} s; memory {resident[0]} MB at first,"
        f" {max(resident)} MB at most, {resident[-1]} MB at the end; tensors {tensors[0]}, {max(tensors)} and"
        f" {tensors[-1]} MB; no state left over; {figures['equal_to_fresh']} pictures equal to those of new processes"
    )


def prompt_number(number: int) -> Prompt:
    """Prompt `number` of an endless sequence that differ in weights, words, concepts, sizes and more."""
    rng = random.Random(number)
    prompt = with_model(json.loads(WORKFLOW.read_text(encoding="utf-8")))
    for node in prompt.values():
        inputs = node["inputs"]
        match node["class_type"]:
            case "MagicFaceMaskWeight":
                inputs["weight"] = rng.choice((0.0, 0.5, 1.0, 2.0, 3.5))
                inputs["resize"] = rng.choice(("nearest", "area"))
            case "MagicFacePrompt":
                inputs["text"] = rng.choice(PROMPTS)
            case "MagicFaceReference":
                inputs["concept"] = rng.choice((inputs["concept"], "hat", "scarf", "face"))
            case "MagicFaceApply":
                if rng.random() < 0.3:
                    del inputs["references.reference1"]
            case "EmptyLatentImage":
                inputs.update(width=rng.choice(SIDES_PX), height=rng.choice(SIDES_PX), batch_size=rng.choice((1, 1, 2)))
            case "KSampler":
                inputs.update(seed=number, steps=rng.randint(2, 5), cfg=rng.choice((1.0, 4.0)))
                inputs["sampler_name"] = rng.choice(SAMPLERS)
            case "SaveImage":
                node["class_type"] = "PreviewImage"  # which writes to ComfyUI's temp folder
                del inputs["filename_prefix"]
    return prompt


def upload(client: Client) -> None:
    """Upload the example pictures that the prompts read."""
    for name in pictures_read(prompt_number(0)):
        client.upload(PICTURES / name)


def picture(client: Client, prompt: Prompt) -> Any:
    """The pixels (b, h, w, 3) that a prompt's sampler makes."""
    return pixels_of(client, wait_for(client, client.queue(prompt)))


def wait_for(client: Client, prompt_id: str) -> dict[str, Any]:
    """Wait for a queued prompt and return its history entry.

    Raises:
        SoakError: it failed, or took too long.
    """
    end = time.monotonic() + PROMPT_LIMIT_S
    while time.monotonic() < end:
        entry = client.get_json(f"/history/{prompt_id}").get(prompt_id)
        if entry:
            if entry["status"]["status_str"] != "success":
                raise SoakError(f"a prompt failed: {entry['status']['messages']}")
            return entry
        time.sleep(0.05)
    raise SoakError(f"a prompt took more than {PROMPT_LIMIT_S} s")


def pixels_of(client: Client, entry: dict[str, Any]) -> Any:
    """The pixels (b, h, w, 3) that a finished prompt previewed."""
    prompt, outputs = entry["prompt"][2], entry["outputs"]
    shown = next(out["images"] for node, out in outputs.items() if prompt[node]["class_type"] == "PreviewImage")
    return np.stack([np.asarray(Image.open(io.BytesIO(client.view(image)))) for image in shown])
