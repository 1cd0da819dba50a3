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

_MOST_BYTES = 512 * 2**20


@dataclass(eq=False)
class GazeRecord:
    """The attention that one run kept.

    Attributes:
        concepts: the concepts' phrases.
        pictures: for each concept, those of its references that were on: (H_px, W_px, 3) uint8 each.
        gazes: by the sampler's step, from 0, and the block.
    """

    concepts: tuple[str, ...]
    pictures: dict[Stage, list[list[Tensor]]] = field(default_factory=dict)
    gazes: dict[tuple[int, Block], tuple[Stage, Gaze]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that queries and keys take."""
        return sum(gaze.nbytes for _, gaze in self.gazes.values())


class GazeRecorder:
    """Keeps the attention of the chosen steps and blocks of one run.

    Attributes:
        unit: bytes of a megabyte.

    Args:
        method: what to keep is in its `record`.
        total_steps: of the run.

    Raises:
        ValueError: a chosen step is not among the run's.
    """

    unit = 2**20

    def __init__(self, method: Method, total_steps: int) -> None:
        assert method.record is not None
        self._blocks, self._most_bytes = method.recorded, method.record.most_mb * self.unit
        self._steps = set(steps_of(method.record.steps, total_steps))
        self._step = -1
        self._kept: set[Block] = set()
        self._full = False
        self.record = GazeRecord(method.labels)
        for stage in (Stage.LAYOUT, Stage.INJECTION):
            self.record.pictures[stage] = [
                [
                    picture
                    for reference in method.references
                    if method.concept_of(reference) == index and reference.weight_at(stage) != 0
                    for picture in (reference.pictures if reference.pictures is not None else ())
                ]
                for index in range(len(method.concepts))
            ]

    def open(self, step: int) -> None:
        """A new evaluation: of several in a step the last one counts."""
        self._step = step
        self._kept.clear()

    def wants(self, block: Block) -> bool:
        """Whether a block's attention is to be kept now; of several conds the first one's."""
        return self._step in self._steps and block in self._blocks and block not in self._kept

    def keep(self, block: Block, stage: Stage, gaze: Gaze) -> None:
        """Keep a block's attention, if there is room."""
        self._kept.add(block)
        small = gaze.kept()
        before = self.record.gazes.pop((self._step, block), None)
        if self.record.nbytes + small.nbytes > self._most_bytes:
            if not self._full:
                log.warning(
                    "MagicFace: the attention to be kept does not fit into %d MB, so some of it is left out; raise"
                    " most_mb in MagicFaceAttentionRecord, or choose fewer steps and blocks.",
                    self._most_bytes // self.unit,
                )
            self._full = True
            if before is not None:
                self.record.gazes[self._step, block] = before
            return
        self.record.gazes[self._step, block] = stage, small


def steps_of(chosen: Sequence[int], total: int) -> list[int]:
    """Steps from 0; negative ones count from the end.

    Raises:
        ValueError: one that a run of `total` steps does not have.
    """
    for step in chosen:
        if not -total <= step < total:
            raise ValueError(
                f"MagicFaceAttentionRecord: steps: {step} is not among this run's {total} steps; choose from 0 to"
                f" {total - 1}, or from -1 (the last) to -{total}"
            )
    return [step % total for step in chosen]


GAZES: LatentStore[GazeRecord] = LatentStore(_MOST_BYTES)
"""Where attention outlives the runs that were asked to keep it, for the nodes that show it."""
