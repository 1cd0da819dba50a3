"""The rows of the table of masks from words: each changes one choice of how a mask is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Decision = Literal["relative", "Otsu", "share", "arg-max"]
Filter = Literal["guided", "joint bilateral"]
Smoothing = Literal["C'", "C", "S C", "S S C"]


@dataclass(frozen=True)
class MaskRow:
    """A way of making masks. What is None is as the node does it.

    Attributes:
        name: in the table.
        levels, noises, blocks, threshold, edge_px: see the pack's `MaskSettings`.
        smoothing: which map is read: eq. 4 of docs/method.md, or a part of it.
        blurred: whether maps are blurred as in the segmentation.
        decision: "relative" to the strongest pixel, above the threshold; "Otsu", the same with Otsu's threshold;
            "share" of the concept's words among these and the strongest other word; "arg-max" over all words before the
            filter, as in the segmentation.
        suppression: factor on other words for "share" and "arg-max".
        filter: that fits maps to edges.
        drop_small: whether parts of the mask that are smaller than a fifth of its largest part are dropped.
    """

    name: str
    levels: tuple[float, ...] | None = None
    noises: int | None = None
    blocks: str = "auto"
    threshold: float | None = None
    edge_px: int | None = None
    smoothing: Smoothing = "C'"
    blurred: bool = False
    decision: Decision = "relative"
    suppression: float = 1.0
    filter: Filter = "guided"
    drop_small: bool = False

    @property
    def reading(self) -> tuple[object, ...]:
        """What has to be read of a picture again if it differs."""
        return self.levels, self.noises, self.blocks, self.smoothing, self.blurred


SHIPPED = MaskRow("as shipped")
CHOICES = (
    *(MaskRow(f"threshold {level:g}", threshold=level) for level in (0.15, 0.2, 0.3, 0.4, 0.5)),
    MaskRow("threshold by Otsu", decision="Otsu"),
    *(
        MaskRow(f"share of the words, suppression {factor:g}", decision="share", suppression=factor)
        for factor in (1.0, 0.6)
    ),
    *(MaskRow(f"arg-max, suppression {factor:g}", decision="arg-max", suppression=factor) for factor in (1.0, 0.6)),
    *(MaskRow(f"level {level:g} only", levels=(level,)) for level in (0.1, 0.3, 0.5, 0.7)),
    MaskRow("levels 0.4, 0.5, 0.6", levels=(0.4, 0.5, 0.6)),
    MaskRow("2 noises", noises=2),
    MaskRow("4 noises", noises=4),
    *(MaskRow(f"blocks {blocks}", blocks=blocks) for blocks in ("input.5", "output.3", "input.4-5,output.3-5")),
    MaskRow("blocks of the segmentation", blocks="input.7-8.1,middle.0.1,output.0-1.1,output.3"),
    MaskRow("blurred", blurred=True),
    *(MaskRow(f"maps {kind}", smoothing=kind) for kind in ("C", "S C", "S S C")),
    *(MaskRow(f"edges within {px} px", edge_px=px) for px in (0, 8, 16, 32)),
    MaskRow("joint bilateral filter", filter="joint bilateral"),
    MaskRow("small parts dropped", drop_small=True),
)
