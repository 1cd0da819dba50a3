"""The recorded attention behind a latent, with what is needed to draw it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..attention.blocks import Block
from ..attention.looking import Gaze
from ..attention.regions import carry
from ..sampling.gazes import GAZES, GazeRecord
from .latent_picture import LAST, MOST_STEPS, finite_samples, pictures_of


@dataclass(frozen=True, eq=False)
class View:
    """One image of a latent and its recorded attention.

    Attributes:
        picture: (H_px, W_px, 3) in 0..1.
        gaze: at the chosen step and block.
        place: the image's place in its run's batch.
        concepts: the concepts' phrases.
        references: for each concept (H_px, W_px, 3) in 0..1, those that the block looked at.
        regions: (hh * ww,) the concept that each of the block's tokens belongs to, or -1.
        where: the step and the block, for a label.
    """

    picture: Tensor
    gaze: Gaze
    place: int
    concepts: tuple[str, ...]
    references: list[list[Tensor]]
    regions: Tensor
    where: str

    def shown(self, tokens: Tensor) -> Tensor:
        """(hh, ww) bool: where tokens are."""
        there = torch.zeros(self.gaze.grid[0] * self.gaze.grid[1], dtype=torch.bool)
        there[tokens] = True
        return there.view(self.gaze.grid)


def inputs() -> list[Any]:
    """The inputs that every view of recorded attention has."""
    return [
        io.Latent.Input(
            "latent",
            tooltip="The output of a sampler whose model went through MagicFace Apply with an Attention Record.",
        ),
        io.Int.Input(
            "step",
            default=LAST,
            min=-MOST_STEPS,
            max=MOST_STEPS,
            tooltip="One of the recorded steps. Negative counts back from the last recorded: -1 = the last.",
        ),
        io.String.Input(
            "block",
            default="auto",
            tooltip="One of the recorded blocks, such as output.3.0. auto = the first of them.",
        ),
    ]


def picture_input() -> Any:
    """The optional picture."""
    return io.Image.Input("image", optional=True, tooltip="The decoded latent, to draw over.")


def views(latent: dict[str, Any], step: int, block: str, image: Tensor | None) -> list[View]:
    """What to draw, for each image of a latent.

    Raises:
        ValueError: naming the input that is wrong and what to do.
    """
    samples = finite_samples(latent)
    recorded = GAZES.find(samples)
    if recorded is None:
        raise ValueError(
            "latent: no attention was kept for it; connect MagicFace Attention Record to MagicFace Apply, give a"
            " reference a weight, connect the sampler's own output here, and sample it again"
        )
    if len({id(record.pictures) for record, _ in recorded}) > 1:
        raise ValueError("latent: its pictures come from several runs; show them one by one")
    return [
        _view(record, place, picture, step, block)
        for (record, place), picture in zip(recorded, pictures_of(image, samples), strict=True)
    ]


def _view(record: GazeRecord, place: int, picture: Tensor, step: int, block: str) -> View:
    number, known = _chosen(record, step, block)
    gaze = record.gazes[number, known]
    references = [[shown.float() / 255 for shown in same] for same in record.pictures[record.stages[number]]]
    # In stage 2 the regions that the block was steered by; in stage 1 those that came of the step.
    given = carry(record.regions[number], gaze.grid).flatten(1) if gaze.given is None else gaze.given
    return View(picture, gaze, place, record.concepts, references, given[place].long(), f"step {number}, {known}")


def _chosen(record: GazeRecord, step: int, block: str) -> tuple[int, Block]:
    """A recorded step, and a block recorded there."""
    steps = sorted(record.regions.keys() & {number for number, _ in record.gazes})
    if not steps:
        raise ValueError(
            "latent: its run kept no attention: the method was not on at the chosen steps, each prompt has an area of"
            " its own, or most_mb of MagicFaceAttentionRecord is too small"
        )
    number = steps[step] if -len(steps) <= step < 0 else step
    if number not in steps:
        raise ValueError(f"step: {step} was not recorded; there are {', '.join(map(str, steps))}")
    blocks = {str(known): known for at, known in record.gazes if at == number}
    name = next(iter(blocks)) if block.strip().lower() == "auto" else block.strip()
    if name not in blocks:
        raise ValueError(f"block: {block!r} was not recorded; there are {', '.join(blocks)}")
    return number, blocks[name]
