"""`dev.py evaluate --agreement`: how similar the regions of some blocks are to those of all, in each evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ..figures import write

COARSE_LAST, COARSE_FIRST = (f"input.7-8.{depth},middle.0.{depth},output.0-2.{depth}" for depth in (1, 0))
FINE = ("input.4", "input.5", "output.3", "output.4", "output.5")
SPECS = (
    "auto",
    "input.7.1,middle.0.1,output.0-1.1,output.3",
    "input.7-8.1,middle.0.1,output.0-1.1",
    "input.7-8,middle,output.0-2",
    COARSE_LAST,
    COARSE_FIRST,
    *(f"{COARSE_LAST},{fine}" for fine in FINE),
    *(f"{COARSE_FIRST},{fine}" for fine in FINE),
    "output.0-2.1,output.3",
    "output.0-2",
    "input.7-8",
    "middle",
    "input.4-5,output.3-5",
    "encoder",
    "decoder",
)
BEFORE = "all, but of the evaluation before"
# What the table calls the blocks that "auto" chooses on this model.
LABELS = {"auto": "**auto**: input.7-8.1, middle.0.1, output.0-1.1, output.3"}
Agreement = dict[str, list[tuple[float, float]]]
"""By blocks and evaluation: overlap (IoU) of the concepts' regions, and share of pixels with the same concept."""


def main(numbers: range, file: Path | None) -> int:
    """Print the table.

    Args:
        numbers: the combinations' numbers.
        file: for the figures as JSON.
    """
    from .evaluate import start_worker

    found: Agreement = {spec: [] for spec in (*SPECS, BEFORE)}
    with ProcessPoolExecutor(cpu_count(), get_context("spawn"), start_worker) as pool:
        for number, its in zip(numbers, pool.map(of_combination, numbers), strict=True):
            print(f"combination {number}", flush=True)
            for spec, values in its.items():
                found[spec] += values
    figures = {
        spec: (mean(overlap for overlap, _ in values), mean(same for _, same in values))
        for spec, values in found.items()
    }
    if file:
        write(file, {"agreement": figures})
    print("\n".join(table(figures)))
    return 0


def table(figures: Mapping[str, Sequence[float]]) -> list[str]:
    """Lines of the table.

    Args:
        figures: by blocks, the mean overlap of the concepts' regions and the mean share of equal pixels.
    """
    lines = ["| blocks | overlap (IoU) of concepts' regions with those of all | pixels with the same concept |"]
    lines.append("|---|---|---|")
    for spec, (overlap, same) in sorted(figures.items(), key=lambda item: -item[1][0]):
        lines.append(f"| {LABELS.get(spec, re.sub(', *', ', ', spec))} | {overlap:.3f} | {same:.3f} |")
    return lines


def of_combination(number: int) -> Agreement:
    """The agreements for one picture, made with the nodes' defaults, but with regions from all blocks."""
    from .combinations import combination
    from .rows import Row
    from .studio import Studio

    studio = Studio()
    found: Agreement = {spec: [] for spec in (*SPECS, BEFORE)}
    row = Row("", weight=None, resize=None, segmentation="all")
    studio.make(combination(number), row, comparison(studio.pack, studio.layout, found))
    return found


def comparison(pack: Any, layout: Any, found: Agreement) -> Any:
    """A region source that finds regions with all blocks, and compares them with those that some blocks find.

    Args:
        pack: the pack.
        layout: the UNet's blocks.
        found: gets the agreements of each evaluation.
    """
    segmenter = pack.sampling.regions.segmenter.Segmenter
    chosen = {spec: pack.attention.blocks.segmentation_blocks(spec, layout) for spec in SPECS}
    before: list[Tensor] = []

    class Comparison:
        """A RegionFinder: one segmenter with all blocks, and one for each choice of blocks."""

        def __init__(self, method: Any, shape: Sequence[int]) -> None:
            self.blocks = method.segmentation_blocks
            self._all = segmenter(method, shape)
            self.places = self._all.places
            self._some = {
                spec: segmenter(replace(method, segmentation_blocks=blocks), shape) for spec, blocks in chosen.items()
            }

        def new_maps(self, row: Any, size_lat: Sequence[int], images: Sequence[int]) -> AllMaps | None:
            """The maps of all segmenters."""
            maps = self._all.new_maps(row, size_lat, images)
            if maps is None:
                return None
            each = [(self.blocks, maps)]
            each += [(some.blocks, some.new_maps(row, size_lat, images)) for some in self._some.values()]
            return AllMaps(each, iter(self.blocks))

        def regions(self, conds: Any, device: torch.device) -> Any:
            """The regions of all blocks."""
            regions = self._all.regions(conds, device)
            found[BEFORE] += [_agreement(regions.concepts, concepts) for concepts in before]
            before[:] = [regions.concepts]
            for spec, some in self._some.items():
                found[spec].append(_agreement(regions.concepts, some.regions(conds, device).concepts))
            return regions

    return Comparison


@dataclass
class AllMaps:
    """Attention maps of one pass of the UNet that are filled together.

    Attributes:
        each: maps, and the blocks that they read.
        coming: the blocks in the order in which they come.
    """

    each: list[tuple[Sequence[Any], Any]]
    coming: Iterator[Any]

    def add(self, *given: Any) -> None:
        """Add the next block to those that read it."""
        block = next(self.coming)
        for blocks, maps in self.each:
            if block in blocks:
                maps.add(*given)


def _agreement(one: Tensor, other: Tensor) -> tuple[float, float]:
    overlaps = [
        float(((one == concept) & (other == concept)).sum() / ((one == concept) | (other == concept)).sum())
        for concept in torch.cat((one, other)).unique()
        if concept >= 0
    ]
    return mean(overlaps) if overlaps else 1.0, float((one == other).float().mean())
