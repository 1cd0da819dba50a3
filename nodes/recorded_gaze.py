"""The recorded attention behind a latent, with what is needed to draw it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..attention.looking import Gaze
from ..attention.regions import carry
from ..sampling.gazes import GAZES, GazeRecord
from .latent_picture import finite_samples, pictures_of, recordings_of

LAST = -1
_MOST_STEPS = 10000


@dataclass(frozen=True, eq=False)
class View:
    """One image of a latent and its recorded attention.

    Attributes:
        picture: (H_px, W_px, 3) in 0..1.
        gaze: at the chosen step and block.
        place: the image's place in its run's batch.
        concepts: the concepts' phrases.
        references: for each concept (H_px, W_px, 3) in 0..1, those that the block looked at.
        regions: (hh * ww,) the concept that each of the block's tokens belongs to after that step, or -1.
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
            min=-_MOST_STEPS,
            max=_MOST_STEPS,
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
    samples = latent["samples"]
    finite_samples(samples)
    recorded = GAZES.find(samples)
    if recorded is None:
        raise ValueError(
            "latent: no attention was kept for it; connect MagicFace Attention Record to MagicFace Apply, and the"
            " sampler's own output here, and sample it again"
        )
    regions = recordings_of(samples)
    found = []
    for (record, place), (recording, _), picture in zip(recorded, regions, pictures_of(image, samples), strict=True):
        number, name = _chosen(record, step, block)
        stage, gaze = next(entry for (at, known), entry in record.gazes.items() if (at, str(known)) == (number, name))
        by_step = {at.step: at.concepts[place] for at in recording.steps}
        concepts = by_step[number].long() if number in by_step else torch.full((1, 1), -1)
        references = [[image.float() / 255 for image in images] for images in record.pictures[stage]]
        tokens = carry(concepts[None], gaze.grid)[0].flatten()
        where = f"step {number}, {name}"
        found.append(View(picture, gaze, place, record.concepts, references, tokens, where))
    return found


def _chosen(record: GazeRecord, step: int, block: str) -> tuple[int, str]:
    """A recorded step, and the name of a block recorded there."""
    steps = sorted({number for number, _ in record.gazes})
    if not steps:
        raise ValueError(
            "latent: its run kept no attention: the method was not on at the chosen steps, or most_mb of"
            " MagicFaceAttentionRecord is too small"
        )
    number = steps[step] if -len(steps) <= step < 0 else step
    if number not in steps:
        raise ValueError(f"step: {step} was not recorded; there are {', '.join(map(str, steps))}")
    names = [str(known) for at, known in record.gazes if at == number]
    name = names[0] if block.strip().lower() == "auto" else block.strip()
    if name not in names:
        raise ValueError(f"block: {block!r} was not recorded; there are {', '.join(names)}")
    return number, name
