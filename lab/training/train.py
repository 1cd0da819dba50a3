"""`dev.py train`: the trained model and the judge, from nothing."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from devtools import cache, tiny_pack
from devtools.pins import ROOT
from devtools.tiny_pack.families import PORTRAITS

from .. import judge, portrait_drawing, portraits
from ..portraits import Split
from . import autoencoder, denoiser, drawn_set, judging, loop
from .drawn_set import Drawings, drawings

SINGLES, TWINS = 44, 24  # files of drawings of one figure, and of two
AUTOENCODER_CHUNKS = 14
JUDGE_CHUNKS = range(100, 114)  # drawings that the denoiser never sees
CHECKED = 0  # chunk of the evaluation drawings on which the judge is measured
STEPS = 6400  # of the denoiser
SHIPPED_JUDGE = judge.WEIGHTS.relative_to(ROOT).as_posix()


def main(minutes: float | None, resume: bool, output: Path) -> int:
    """Train, or go on training, and write `portraits.safetensors` and `judge.safetensors`.

    Args:
        minutes: when to stop training, at a checkpoint if need be; drawing and encoding are always finished. None
            for the whole of it.
        resume: go on from the last checkpoint rather than start anew.
        output: folder for the two files.
    """
    work = cache.root() / "training" / "checkpoints"
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    check_version(work)
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    device = comfy.model_management.get_torch_device()
    wanted: list[tuple[Split, int]] = [("train", chunk) for chunk in (*range(SINGLES), *JUDGE_CHUNKS)]
    wanted += [("twins", chunk) for chunk in range(TWINS)]
    for done in drawn_set.draw_ahead(wanted):
        print(f"drawings: {done} of {len(wanted)} files", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    if train_judge(work, deadline, device, output) and train_model(work, deadline, device, output):
        print(f"Done: {output.resolve()}. Shipped are devtools/tiny_pack/{PORTRAITS.file} and {SHIPPED_JUDGE}.")
    else:
        print("Stopped before the end; `dev.py train --resume` goes on.")
    return 0


def check_version(work: Path) -> None:
    """Keep the version of the code beside the checkpoints that it made, and say so where they are another's."""
    work.mkdir(parents=True, exist_ok=True)
    kept, version = work / "version", code_version()
    if kept.is_file() and kept.read_text(encoding="utf-8") != version:
        print("The checkpoints come from another version of the code: start anew unless you know that they fit.")
    kept.write_text(version, encoding="utf-8")


def train_judge(work: Path, deadline: float, device: torch.device, output: Path) -> bool:
    """Train the judge and say how well it sees; whether it got done."""
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
    """Train autoencoder, text encoders and UNet; whether all got done. What there is of the UNet is written anyhow."""
    scale = PORTRAITS.config.latent_format().scale_factor
    coder, coding = trained_autoencoder(work, deadline, device, scale)
    if coding["steps"] < coding["of"]:
        return False
    data = kept_latents(work, coder, scale, device)
    model = denoiser.Denoiser().to(device)
    phase = denoiser.phase(model, data, STEPS, device)
    progress = loop.run(phase, work, deadline)
    state = denoiser.state_of(model, progress.average)
    state |= {f"vae.{name}": weight for name, weight in coder.state_dict().items()}
    grounding = {"grounding weights": {"nouns": denoiser.NOUNS, "things": denoiser.THINGS}}
    record = {"autoencoder": coding, "denoiser": {**recorded(phase, progress), **grounding}}
    write(state, record, output / str(PORTRAITS.file))
    return progress.step == phase.steps


def trained_autoencoder(
    work: Path, deadline: float, device: torch.device, scale: float
) -> tuple[nn.Module, dict[str, Any]]:
    """The autoencoder, with latents of the family's scale, and its record."""
    coder = autoencoder.make().to(device)
    seen = gather(range(AUTOENCODER_CHUNKS))
    phase = autoencoder.phase(coder, seen, device)
    progress = loop.run(phase, work, deadline)
    some = autoencoder.pixels(torch.from_numpy(seen.pictures[:256])).to(device)
    autoencoder.finish(coder, progress.average, some, scale)
    return coder, recorded(phase, progress)


def gather(chunks: range) -> Drawings:
    """Several files of training drawings as one."""
    parts = [drawings("train", chunk) for chunk in chunks]
    return Drawings(
        np.concatenate([part.pictures for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.patterns for part in parts]),
        [captions for part in parts for captions in part.captions],
    )


def kept_latents(work: Path, coder: nn.Module, scale: float, device: torch.device) -> denoiser.LatentSet:
    """What the denoiser learns from, encoded once for these checkpoints."""
    path = work / "latents.pt"
    if not path.is_file():

        def parts() -> Iterator[Drawings]:
            counts: dict[Split, int] = {"train": SINGLES, "twins": TWINS}
            for split, count in counts.items():
                for chunk in range(count):
                    print(f"encoding drawings: {split}, file {chunk + 1} of {count}", flush=True)
                    yield drawings(split, chunk)

        data = denoiser.encode_drawings(coder, parts(), scale, device)
        half_made = path.with_suffix(".half")
        torch.save({"latents": data.latents, "shares": data.shares, "captions": data.captions}, half_made)
        half_made.replace(path)
    return denoiser.LatentSet(**torch.load(path, weights_only=True))


def first_weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights as torch starts them, from a generator of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(loop.SEED)
        return type(module)().state_dict()


def recorded(phase: loop.Phase, progress: loop.Progress) -> dict[str, Any]:
    """The training record of a phase: steps, rate, and the curve of its losses."""
    curve = [[step, *(round(value, 5) for value in point.values())] for step, point in progress.curve]
    names = ["step", *(progress.curve[-1][1] if progress.curve else ())]
    return {
        "steps": progress.step,
        "of": phase.steps,
        "largest rate": phase.rate,
        "seed": loop.SEED,
        "curve": [names, *curve],
    }


def code_version() -> str:
    """Hash of the sources that decide what the weights become."""
    folders = [Path(str(module.__file__)).parent for module in (drawn_set, tiny_pack)]
    files = [Path(str(module.__file__)) for module in (portraits, portrait_drawing, judge)]
    sources = sorted([*files, *(path for folder in folders for path in folder.glob("*.py"))])
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(state: dict[str, Tensor], record: dict[str, Any], path: Path) -> None:
    """Save weights in float16, with the record of their training."""
    halves = {name: (w.half() if w.is_floating_point() else w).contiguous().cpu() for name, w in state.items()}
    text = json.dumps({"code": code_version(), "torch": torch.__version__, **record})
    safetensors.torch.save_file(halves, path, {"training": text})
    print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
