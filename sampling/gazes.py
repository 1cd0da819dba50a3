"""What of its attention a run keeps to be shown afterwards, and how much at most; nothing unless asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..attention.blocks import Block
from ..attention.looking import Gaze
from ..attention.schedule import Stage
from .method import Method
from .recording import LatentStore

log = logging.getLogger(__name__)

_MEGABYTE = 2**20
_MOST_BYTES = 512 * _MEGABYTE


@dataclass(eq=False)
class GazeRecord:
    """The attention that one run kept.

    Attributes:
        concepts: the concepts' phrases.
        pictures: by stage, for each concept, those of its references that were on: (H_px, W_px, 3) uint8 each.
        gazes: by the sampler's step, from 0, and the block.
        stages: of the steps that have gazes.
        regions: (b, H2, W2) int8 at the end of those steps, concept indices or -1.
    """

    concepts: tuple[str, ...]
    pictures: dict[Stage, list[list[Tensor]]]
    gazes: dict[tuple[int, Block], Gaze] = field(default_factory=dict)
    stages: dict[int, Stage] = field(default_factory=dict)
    regions: dict[int, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        shown = {id(p): p.nbytes for stage in self.pictures.values() for same in stage for p in same}
        maps = sum(regions.nbytes for regions in self.regions.values())
        return sum(gaze.nbytes for gaze in self.gazes.values()) + maps + sum(shown.values())


class GazeRecorder:
    """Keeps the attention of the chosen steps and blocks of one run.

    Args:
        method: what to keep is in its `record`.
        total_steps: of the run.

    Raises:
        ValueError: none of the chosen steps is among the run's.
    """

    def __init__(self, method: Method, total_steps: int) -> None:
        assert method.record is not None
        self._blocks, self._most_bytes = method.recorded, method.record.most_mb * _MEGABYTE
        self._steps = set(steps_of(method.record.steps, total_steps))
        self._step = 0
        self._full = False
        stages = (Stage.LAYOUT, Stage.INJECTION)
        self.record = GazeRecord(method.labels, {stage: _pictures(method, stage) for stage in stages})

    def wants(self, block: Block) -> bool:
        """Whether a block's attention is to be kept now."""
        return self._step in self._steps and block in self._blocks

    def keep(self, block: Block, stage: Stage, gaze: Gaze) -> None:
        """Keep a block's attention, if there is room. Of several evaluations in a step the last one stays."""
        key = self._step, block
        if self._full and key not in self.record.gazes:
            return
        small = gaze.kept()
        self.record.gazes.pop(key, None)
        if self.record.nbytes + small.nbytes <= self._most_bytes:
            self.record.gazes[key] = small
            self.record.stages[self._step] = stage
        elif not self._full:
            self._full = True
            log.warning(
                "MagicFace: the attention to be kept does not fit into %d MB, so some of it is left out; raise"
                " most_mb in MagicFaceAttentionRecord, or choose fewer steps and blocks.",
                self._most_bytes // _MEGABYTE,
            )

    def step_done(self, step: int, regions: Tensor | None) -> None:
        """The sampler reports a step; what is evaluated from now on belongs to the next.

        Args:
            step: its number.
            regions: (b, H2, W2) concept indices or -1 at its end; None where the method was off.
        """
        self._step = step + 1
        if regions is None:
            # A sampler of second order evaluates once more after its report: with the method on, for this step's sake.
            for key in [key for key in self.record.gazes if key[0] == step]:
                del self.record.gazes[key]
        elif step in self.record.stages:
            self.record.regions[step] = regions.clone()


def _pictures(method: Method, stage: Stage) -> list[list[Tensor]]:
    """For each concept the pictures of its references, as far as they are on at a stage."""
    on = [reference for reference in method.references if reference.weight_at(stage) != 0]
    shown = [(method.concept_of(reference), reference.pictures) for reference in on if reference.pictures is not None]
    return [
        [picture for concept, pictures in shown if concept == index for picture in pictures]
        for index in range(len(method.concepts))
    ]


def steps_of(chosen: Sequence[int], total: int) -> list[int]:
    """Of the chosen steps those that a run of `total` steps has, from 0; negative ones count from the end.

    Raises:
        ValueError: it has none of them.
    """
    there = [step % total for step in chosen if -total <= step < total]
    if not there:
        given = ", ".join(map(str, chosen))
        raise ValueError(
            f"MagicFaceAttentionRecord: steps: this run has {total} steps and so none of {given}; choose from 0 to"
            f" {total - 1}, or from -1 (the last) to -{total}"
        )
    return there


GAZES: LatentStore[GazeRecord] = LatentStore(_MOST_BYTES)
"""Where attention outlives the runs that were asked to keep it, for the nodes that show it."""
