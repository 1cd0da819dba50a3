"""One evaluation of the model by the guider, and the batches of conds that it consists of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...attention.blocks import Block
from ...attention.kv import BlockKV
from ...attention.schedule import Stage
from ..conditioning.roles import KnownConds
from ..regions.index import RegionIndex
from ..regions.source import RegionFinder
from ..snapshots import AttentionRecorder


@dataclass(eq=False)
class Evaluation:
    """One evaluation of the model.

    Attributes:
        stage: the method's stage at its noise level.
        sigma: (b,) the noise level as the sampler gave it.
        level: its first value.
        model_options: of the evaluation; references inherit very few of them.
        finder: collects attention maps until the primary batch, which holds the positive list, is done; then None.
        steering: the regions that steer the blend stage in all its calls: those of the evaluation before.
        kv: keys and values of the references by hook group.
        rate_pending: whether the guidance rate is still to be applied.
    """

    stage: Stage
    sigma: Tensor
    level: float
    model_options: dict[str, Any]
    finder: RegionFinder | None
    steering: RegionIndex | None
    kv: dict[Any, dict[Block, BlockKV]] = field(default_factory=dict)
    rate_pending: bool = False


@dataclass(frozen=True, eq=False)
class CondBatch:
    """One CALC_COND_BATCH of an evaluation: what its UNet calls share.

    Attributes:
        evaluation: that it belongs to.
        conds: the requested conds.
        finder: collects their attention maps, or None.
        recorder: records attention snapshots of them, or None.
        size_lat: (H, W) of the latent.
    """

    evaluation: Evaluation
    conds: KnownConds
    finder: RegionFinder | None
    recorder: AttentionRecorder | None
    size_lat: Sequence[int]
