"""The rows of the table: each is a way of making the pictures.

Most change one setting of the authors' settings, which are weight 2, masks resized by nearest, regions from all blocks
and references at every noise level. The nodes' defaults follow from these rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

LAYOUT_ONLY, BLEND_ONLY = {"switch": 1.0}, {"switch": 0.0}
# The weight is added to a token's score. This is almost nothing; exactly 0 would turn the reference off.
NO_BIAS = 1e-9


@dataclass(frozen=True)
class Row:
    """A way of making a picture.

    Attributes:
        name: in the table.
        uses: whether the method is used.
        drawn: whether the picture is a true drawing with the looks of the references, not a generated one.
        weight: weight of each reference; None for the nodes' default.
        resize: how masks are resized to token grids; None for the nodes' default.
        segmentation: names of the segmentation blocks; None for the nodes' default.
        seed: selects a set of seeds for the sampler.
        views: number of views of each concept, 1 or 2.
        refresh: the setting of that name; None for the nodes' default.
        masks: "exact" ones, or those that MagicFace Mask from Words finds.
        schedule: the settings that differ from the default schedule.
        size_px: at which references are encoded; None for the workflows' size.
        crop: whether they are cropped to their masks.
    """

    name: str
    uses: bool = True
    weight: float | None = 2.0
    resize: Literal["nearest", "area"] | None = "nearest"
    segmentation: str | None = "all"
    views: int = 1
    seed: int = 0
    refresh: float | None = 0.0
    masks: Literal["exact", "words"] = "exact"
    schedule: Mapping[str, Any] = field(default_factory=dict)
    size_px: int | None = None
    crop: bool = False
    drawn: bool = False


_SHIPPED: dict[str, Any] = {"weight": None, "resize": None, "segmentation": None}

MAIN = (
    Row("none", uses=False),
    Row("rsa", schedule=LAYOUT_ONLY),
    Row("rba", schedule=BLEND_ONLY),
    Row("both"),
    Row("as shipped", refresh=None, **_SHIPPED),
    Row("drawn", uses=False, drawn=True),
)
ABLATIONS = (
    Row("no weighted masks", weight=NO_BIAS),
    Row("no guidance", schedule={"guidance": False}),
    Row("no foreground cut", schedule={"foreground": "never"}),
    Row("foreground cut always", schedule={"foreground": "always"}),
    *(Row(f"weight {weight:g}", weight=weight) for weight in (0.5, 1.0, 1.5, 3.0, 5.0)),
    *(Row(f"switch {switch:g}", schedule={"switch": switch}) for switch in (0.1, 0.2, 0.3, 0.6)),
    *(
        Row(f"suppression {factor:g}", schedule={"suppression": factor, "foreground": "always"})
        for factor in (0.5, 0.7, 1.0)
    ),
    # By nearest, masks of glasses vanish on the coarse grid, and sampling is refused.
    Row("blocks output.0-2, area", resize="area", schedule={"injection_blocks": "output.0-2"}),
    *(Row(f"blocks {blocks}", schedule={"injection_blocks": blocks}) for blocks in ("output.3-5", "middle,output.0-5")),
    *(
        Row(f"segmentation {blocks}", segmentation=blocks)
        for blocks in ("auto", "output.0-5", "output.3-5", "input.4-5,output.3-5")
    ),
    Row("mask resize area", resize="area"),
    Row("two views", views=2),
    Row("seed 1", seed=1),
    Row("noise seed 1", schedule={"noise_seed": 1}),
    *(Row(f"shipped, refresh {refresh:g}", refresh=refresh, **_SHIPPED) for refresh in (0.0, 0.1)),
)
ROWS = {row.name: row for row in (*MAIN, *ABLATIONS)}
