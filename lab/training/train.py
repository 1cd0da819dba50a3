"""`dev.py train`: trains the small model and the judge."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import comfy.model_management
import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from devtools import cache, tiny_pack
from devtools.pins import ROOT
from devtools.tiny_pack import tiny_model
from devtools.tiny_pack.families import PORTRAITS

from .. import judge
from ..portraits import Split
from . import autoencoder, denoiser, drawn_set, judging, loop
from .drawn_set import Drawings, drawings

SINGLES, TWINS = 20, 16  # number of files of drawings with one figure, and with two
AUTOENCODER_CHUNKS = 14
JUDGE_CHUNKS = range(100, 128)  # drawings that the denoiser is not trained on
CHECKED = 1000  # the chunk of evaluation drawings that the judge is measured on
STEPS = 20_000  # of the denoiser
START = "start.safetensors"  # in the checkpoints' folder, what the training began with if not from scratch
SHIPPED_JUDGE = judge.WEIGHTS.relative_to(ROOT).as_posix()


def main(minutes: float | None, resume: bool, output: Path, only: str | None = None, start: Path | None = None) -> int:
    """Train, or continue to, and write `portraits.safetensors` and `judge.safetensors`.

    Args:
        minutes: stop training after this time, with a checkpoint; drawing and encoding always finish. None for no
            limit.
        resume: continue from the last checkpoint instead of starting again.
        output: folder for the two files.
        only: "judge", "autoencoder" or "model" (which includes the autoencoder) to train nothing else.
        start: a `portraits.safetensors` of an earlier training. Its autoencoder is not trained, and the model begins
            with its weights. A resumed training has the one that it began with.

    Returns:
        The exit status.
    """
    if start and (resume or only not in (None, "model")):
        print("dev.py train: --start begins a training of the model; leave out --resume and --only", file=sys.stderr)
        return 1
    work = cache.root() / "training" / "checkpoints"
    if not resume:
        begin(work, start)
    check_version(work)
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    device = comfy.model_management.get_torch_device()
    for_judge, for_coder = only in (None, "judge"), only != "judge" and not (work / START).is_file()
    chunks = [*(JUDGE_CHUNKS if for_judge else ()), *range(AUTOENCODER_CHUNKS if for_coder else 0)]
    drawn_set.draw_ahead([("train", chunk) for chunk in chunks])
    output.mkdir(parents=True, exist_ok=True)
    finished: dict[str, Callable[[], object]] = {
        "judge": lambda: train_judge(work, deadline, device, output),
        "autoencoder": lambda: trained_autoencoder(work, deadline, device)[1],
        "model": lambda: train_model(work, deadline, device, output),
    }
    if all(finished[name]() for name in ([only] if only else ["judge", "model"])):
        print(f"Done: {output.resolve()}. Shipped are devtools/tiny_pack/{PORTRAITS.file} and {SHIPPED_JUDGE}.")
    else:
        print("Stopped before the end; `dev.py train --resume` continues.")
    return 0


def begin(work: Path, start: Path | None) -> None:
    """Empty the checkpoints' folder, and copy the file to start from into it."""
    first = start.read_bytes() if start and record_in(start) else b""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if first:
        (work / START).write_bytes(first)


def check_version(work: Path) -> None:
    """Store the version of the code with the checkpoints; print a note if they were made by another version."""
    work.mkdir(parents=True, exist_ok=True)
    file, version = work / "version", code_version()
    if file.is_file() and file.read_text(encoding="utf-8") != version:
        print("Note: the checkpoints were made by another version of the code, and may not fit this one.")
    file.write_text(version, encoding="utf-8")


def train_judge(work: Path, deadline: float, device: torch.device, output: Path) -> bool:
    """Train the judge and print its accuracy; returns whether training finished."""
    network = judge.Judge().to(device)
    network.load_state_dict(first_weights(network))
    seen = gather(JUDGE_CHUNKS)
    phase = judging.phase(network, seen, device)
    progress = loop.run(phase, work, deadline)
    if progress.step < phase.steps:
        return False
    judging.finish(network, progress.average, seen, device)
    scores = judging.accuracy(network.cpu(), drawings("evaluation", CHECKED))
    print("judge: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()), flush=True)
    record = {**recorded(phase, progress), "on held-out drawings": scores}
    write(network.state_dict(), record, output / judge.WEIGHTS.name)
    return True


def train_model(work: Path, deadline: float, device: torch.device, output: Path) -> bool:
    """Train autoencoder, text encoders and UNet; returns whether all finished. An unfinished UNet is written too."""
    scale = PORTRAITS.config.latent_format().scale_factor
    model, before = denoiser.Denoiser(), {}
    start = work / START
    if start.is_file():
        before = record_in(start)
        model.load(start)
        coder = autoencoder.finished(tiny_model.weights_in(start, "vae")).to(device)
        coding = before["autoencoder"]
    else:
        coder, coding = trained_autoencoder(work, deadline, device)
    if not coding:
        return False
    data = encoded_latents(work, coder, scale, device)
    model.to(device)
    phase = denoiser.phase(model, data, STEPS, device)
    # On a CPU the gradients of attention in plain steps take half as long as those of its fused kernel.
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
        progress = loop.run(phase, work, deadline)
    state = denoiser.state_of(model, progress.average, data)
    state |= {f"vae.{name}": weight for name, weight in coder.state_dict().items()}
    grounding = {"grounding weights": {"nouns": denoiser.NOUNS, "things": denoiser.THINGS}}
    earlier = {"earlier": before["denoiser"]} if before else {}
    record = {"autoencoder": coding, "denoiser": {**recorded(phase, progress), **grounding, **earlier}}
    write(state, record, output / str(PORTRAITS.file))
    return progress.step == phase.steps


def trained_autoencoder(work: Path, deadline: float, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """Train the autoencoder, which starts with the shipped weights.

    Returns:
        The autoencoder, with latents of the family's scale, and its training record, which is empty if time was up.
    """
    scale = PORTRAITS.config.latent_format().scale_factor
    coder = autoencoder.make()
    shipped = tiny_model.trained_weights(PORTRAITS, "vae")
    seen = gather(range(AUTOENCODER_CHUNKS))
    if shipped:
        autoencoder.continue_from(coder, shipped, scale)
    else:
        autoencoder.measure_norm(coder, autoencoder.pixels(torch.from_numpy(seen.pictures[: autoencoder.MEASURED])))
    coder.to(device)
    phase = autoencoder.phase(coder, seen, device)
    progress = loop.run(phase, work, deadline)
    some = autoencoder.pixels(torch.from_numpy(seen.pictures[:256])).to(device)
    autoencoder.finish(coder, progress.average, some, scale)
    return coder, recorded(phase, progress) if progress.step == phase.steps else {}


def gather(chunks: range) -> Drawings:
    """Several chunks of training drawings as one set."""
    parts = [drawings("train", chunk) for chunk in chunks]
    return Drawings(
        np.concatenate([part.pictures for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.patterns for part in parts]),
        np.concatenate([part.styles for part in parts]),
        [captions for part in parts for captions in part.captions],
    )


def encoded_latents(work: Path, coder: nn.Module, scale: float, device: torch.device) -> denoiser.LatentSet:
    """The training data of the denoiser, which is encoded once and stored with the checkpoints."""
    path = work / "latents.pt"
    if not path.is_file():
        chunks: list[tuple[Split, int]] = [("train", chunk) for chunk in range(SINGLES)]
        chunks += [("twins", chunk) for chunk in range(TWINS)]
        drawn_set.draw_ahead(chunks)
        parts = (drawings(*chunk) for chunk in tqdm(chunks, desc="encoding drawings", file=sys.stdout))
        data = denoiser.encode_drawings(coder, parts, scale, device)
        unfinished = path.with_suffix(".half")
        torch.save(vars(data), unfinished)
        unfinished.replace(path)
    return denoiser.LatentSet(**torch.load(path, weights_only=True))


def first_weights(module: nn.Module) -> dict[str, Tensor]:
    """torch's initial weights of a module, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(loop.SEED)
        return type(module)().state_dict()


def recorded(phase: loop.Phase, progress: loop.Progress) -> dict[str, Any]:
    """The training record of a phase: its steps, learning rate and loss curve."""
    curve = [[step, *(round(value, 5) for value in point.values())] for step, point in progress.curve]
    names = ["step", *(progress.curve[-1][1] if progress.curve else ())]
    return {
        "steps": progress.step,
        "of": phase.steps,
        "largest rate": phase.rate,
        "seed": loop.SEED,
        "curve": [names, *curve],
    }


def record_in(file: Path) -> dict[str, Any]:
    """The training record of a file that `write` wrote."""
    with safetensors.safe_open(file, "pt") as opened:
        record: dict[str, Any] = json.loads(opened.metadata()["training"])
    return record


def code_version() -> str:
    """Hash of the sources that determine the weights."""
    folders = [Path(str(module.__file__)).parent for module in (drawn_set, tiny_pack)]
    sources = sorted(
        [*drawn_set.SOURCES, Path(str(judge.__file__)), *(path for folder in folders for path in folder.glob("*.py"))]
    )
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(state: dict[str, Tensor], record: dict[str, Any], path: Path) -> None:
    """Save weights in float16, with their training record as metadata."""
    halves = {name: (w.half() if w.is_floating_point() else w).contiguous().cpu() for name, w in state.items()}
    text = json.dumps({"code": code_version(), "torch": torch.__version__, **record})
    safetensors.torch.save_file(halves, path, {"training": text})
    print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
