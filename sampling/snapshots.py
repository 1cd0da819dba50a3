"""Attention that a run records to be shown later; nothing unless requested."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..attention.blocks import Block
from ..attention.schedule import Stage
from ..attention.snapshot import AttentionSnapshot
from .errors import SamplingError
from .latent_store import LatentStore
from .method import Method
from .references.cache import MEGABYTE

log = logging.getLogger(__name__)

_MAX_BYTES = 512 * MEGABYTE


@dataclass(eq=False)
class AttentionRecord:
    """The attention snapshots of one run.

    Attributes:
        concept_names: for labels, by concept index.
        pictures: by stage, for each concept, those of its references that were on: (h_px, w_px, 3) uint8 each.
        snapshots: by the sampler's step, from 0, and the block.
        stages: of the steps that have snapshots.
        regions: (b, H2, W2) int8 at the end of those steps, concept indices or -1.
    """

    concept_names: tuple[str, ...]
    pictures: dict[Stage, list[list[Tensor]]]
    snapshots: dict[tuple[int, Block], AttentionSnapshot] = field(default_factory=dict)
    stages: dict[int, Stage] = field(default_factory=dict)
    regions: dict[int, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        shown = {id(p): p.nbytes for concepts in self.pictures.values() for pictures in concepts for p in pictures}
        maps = sum(regions.nbytes for regions in self.regions.values())
        return sum(snapshot.nbytes for snapshot in self.snapshots.values()) + maps + sum(shown.values())


class AttentionRecorder:
    """Records attention snapshots of the chosen steps and blocks of one run.

    Raises:
        SamplingError: the run has none of the chosen steps.
    """

    def __init__(self, method: Method, total_steps: int) -> None:
        assert method.record is not None
        self._blocks, self._max_bytes = method.recorded_blocks, method.record.max_mb * MEGABYTE
        self._steps = set(steps_of(method.record.steps, total_steps))
        self._step = 0
        self._full = False
        stages = (Stage.LAYOUT, Stage.BLEND)
        self.record = AttentionRecord(method.concept_names, {stage: _pictures(method, stage) for stage in stages})

    def wants(self, block: Block) -> bool:
        """Whether a block's attention is to be recorded now."""
        return self._step in self._steps and block in self._blocks

    def add(self, block: Block, stage: Stage, snapshot: AttentionSnapshot) -> None:
        """Record a block's attention if there is room. Of several evaluations in a step the last one remains."""
        key = self._step, block
        if self._full and key not in self.record.snapshots:
            return
        small = snapshot.compact()
        self.record.snapshots.pop(key, None)
        if self.record.nbytes + small.nbytes <= self._max_bytes:
            self.record.snapshots[key] = small
            self.record.stages[self._step] = stage
        elif not self._full:
            self._full = True
            log.warning(
                "MagicFace: the recorded attention does not fit into %d MB, so some of it is left out; raise most_mb in"
                " MagicFace Attention Record, or choose fewer steps and blocks.",
                self._max_bytes // MEGABYTE,
            )

    def end_step(self, step: int, regions: Tensor | None) -> None:
        """Take in the regions (b, H2, W2) at the end of a step, None if the method was off; the next step begins."""
        self._step = step + 1
        if regions is None:
            # A second-order sampler reports a step before its second evaluation, so that is counted to this step; the
            # method may have been on there.
            for key in [key for key in self.record.snapshots if key[0] == step]:
                del self.record.snapshots[key]
        elif step in self.record.stages:
            self.record.regions[step] = regions.clone()


def _pictures(method: Method, stage: Stage) -> list[list[Tensor]]:
    """For each concept the pictures of those of its references that are on at a stage."""
    on = [reference for reference in method.references if reference.weight_at(stage) != 0]
    shown = [(method.concept_of(reference), reference.pictures) for reference in on if reference.pictures is not None]
    return [
        [picture for concept, pictures in shown if concept == index for picture in pictures]
        for index in range(len(method.concepts))
    ]


def steps_of(chosen: Sequence[int], total: int) -> list[int]:
    """Those of the chosen steps that a run of `total` steps has, from 0; negative ones count from the end.

    Raises:
        SamplingError: it has none of them.
    """
    found = [step % total for step in chosen if -total <= step < total]
    if not found and total:
        given = ", ".join(map(str, chosen))
        raise SamplingError(
            f"steps: this run has {total} steps and so none of {given}; choose from 0 to {total - 1}, or from -1 (the"
            f" last) to -{total}",
            "AttentionRecord",
        )
    return found


ATTENTION_STORE: LatentStore[AttentionRecord] = LatentStore(_MAX_BYTES)
"""Attention records by latent, for the nodes that show them."""
