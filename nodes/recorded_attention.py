"""The recorded attention of a sampled latent, with what is needed to draw it."""

from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..attention.blocks import Block
from ..attention.regions import resize_nearest
from ..attention.snapshot import AttentionSnapshot
from ..sampling.snapshots import ATTENTION_STORE, AttentionRecord
from .drawing.fonts import drawable_names
from .sampled_latent import finite_samples, pictures_of, step_input


@dataclass(frozen=True, eq=False)
class RecordedImage:
    """One image of a latent and its recorded attention.

    Attributes:
        picture: (H_px, W_px, 3) in 0..1.
        snapshot: at the chosen step and block.
        index: of the image in its run's batch.
        concept_names: for labels, by concept index.
        references: for each concept the pictures (h_px, w_px, 3) in 0..1 of its references that were on.
        regions: (hh * ww,) the concept that each of the block's tokens belongs to, or -1.
        location: the step and the block, for labels.
    """

    picture: Tensor
    snapshot: AttentionSnapshot
    index: int
    concept_names: tuple[str, ...]
    references: list[list[Tensor]]
    regions: Tensor
    location: str

    def cells(self, tokens: Tensor) -> Tensor:
        """(hh, ww) bool: true at these tokens."""
        chosen = torch.zeros(self.snapshot.grid[0] * self.snapshot.grid[1], dtype=torch.bool)
        chosen[tokens] = True
        return chosen.view(self.snapshot.grid)


def attention_inputs(*own: Any) -> list[Any]:
    """The inputs of a node that shows recorded attention, its own ones before the optional picture."""
    return [
        io.Latent.Input(
            "latent", tooltip="From a sampler whose model went through MagicFace Apply with MagicFace Attention Record."
        ),
        step_input("One of the recorded steps. Negative numbers count from the last recorded one: -1 = the last."),
        io.String.Input(
            "block", default="auto", tooltip="One of the recorded blocks, such as output.3.0. auto = the first of them."
        ),
        *own,
        io.Image.Input("image", optional=True, tooltip="The decoded latent, to draw over."),
    ]


def recorded_images(latent: dict[str, Any], step: int, block: str, image: Tensor | None) -> list[RecordedImage]:
    """What to draw for each image of a latent.

    Raises:
        ValueError: nothing is recorded for it, or not that step or block.
    """
    samples = finite_samples(latent)
    recorded = ATTENTION_STORE.find(samples)
    if recorded is None:
        raise ValueError(
            "latent: no attention was recorded for it; connect MagicFace Attention Record to MagicFace Apply, give a"
            " reference a weight above 0, connect the sampler's own output here, and sample it again"
        )
    if len({id(record.pictures) for record, _ in recorded}) > 1:
        raise ValueError("latent: its pictures come from several runs; show them one by one")
    return [
        _recorded_image(record, index, picture, step, block)
        for (record, index), picture in zip(recorded, pictures_of(image, samples), strict=True)
    ]


def _recorded_image(record: AttentionRecord, index: int, picture: Tensor, step: int, block: str) -> RecordedImage:
    number, known = _chosen(record, step, block)
    snapshot = record.snapshots[number, known]
    references = [[shown.float() / 255 for shown in pictures] for pictures in record.pictures[record.stages[number]]]
    # In the blend stage, the regions that steered the block; in the layout stage, those found in that step.
    labels = snapshot.rule.labels
    if labels is None or snapshot.rule.concepts is not None:
        labels = resize_nearest(record.regions[number], snapshot.grid).flatten(1)
    names = tuple(drawable_names(record.concept_names))
    location = f"step {number}, {known}"
    return RecordedImage(picture, snapshot, index, names, references, labels[index].long(), location)


def _chosen(record: AttentionRecord, step: int, block: str) -> tuple[int, Block]:
    """A recorded step, and a block recorded there."""
    steps = sorted(record.regions.keys() & {number for number, _ in record.snapshots})
    if not steps:
        raise ValueError(
            "latent: its run recorded no attention: MagicFace was not on at the chosen steps, every prompt has its own"
            " area, another node split the batch, or most_mb of MagicFace Attention Record is too small"
        )
    number = steps[step] if -len(steps) <= step < 0 else step
    if number not in steps:
        raise ValueError(f"step: {step} was not recorded; there are {', '.join(map(str, steps))}")
    blocks = {str(known): known for at, known in record.snapshots if at == number}
    name = next(iter(blocks)) if block.strip().lower() == "auto" else block.strip()
    if name not in blocks:
        raise ValueError(f"block: {block!r} was not recorded; there are {', '.join(blocks)}")
    return number, blocks[name]
