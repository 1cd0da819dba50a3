"""One evaluation of the model by the guider, and the batches of conds that it consists of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...attention.blocks import Block
from ...attention.kv import BlockKV
from ...attention.schedule import Stage
from ..conditioning.roles import KnownConds
from ..findings import Findings
from ..regions.index import RegionIndex
from ..regions.places import Places
from ..regions.source import RegionFinder
from ..snapshots import AttentionRecorder
from .windows import Images


@dataclass(eq=False)
class Evaluation:
    """One evaluation of the model.

    Attributes:
        stage: the method's stage at its noise level.
        sigma: (b,) the noise level as the sampler gave it.
        level: its first value.
        shape: (b, ch, H, W) of its latent.
        model_options: of the evaluation; references inherit very few of them.
        finder: collects attention maps; None if there are none to collect.
        places: where concepts may be, None for anywhere.
        steering: the regions that steer the blend stage in all its calls: those of the evaluation before.
        kv: keys and values of the references by hook group.
        mapped: the images for which the positive list is done; later requests of it are other nodes' own.
        rate_pending: whether the guidance rate is still to be applied.
        prompted: whether the positive prompt was requested.
        attended: whether anything attended to the references.
    """

    stage: Stage
    sigma: Tensor
    level: float
    shape: Sequence[int]
    model_options: dict[str, Any]
    finder: RegionFinder | None
    places: Places | None
    steering: RegionIndex | None
    kv: dict[Any, dict[Block, BlockKV]] = field(default_factory=dict)
    mapped: set[int] = field(default_factory=set)
    rate_pending: bool = False
    prompted: bool = False
    attended: bool = False


@dataclass(frozen=True, eq=False)
class CondBatch:
    """One CALC_COND_BATCH of an evaluation: what its UNet calls share.

    Attributes:
        evaluation: that it belongs to.
        conds: the requested conds.
        finder: collects their attention maps, or None.
        recorder: records attention snapshots of them, or None.
        shape: (b', ch, H, W) of its latent.
        findings: of the run.
        images: those of the evaluation that it is for; None if that is not known, as for a part of the picture.
    """

    evaluation: Evaluation
    conds: KnownConds
    finder: RegionFinder | None
    recorder: AttentionRecorder | None
    shape: Sequence[int]
    findings: Findings
    images: Images | None
