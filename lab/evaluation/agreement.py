"""`dev.py evaluate --agreement`: how similar the regions of some blocks are to those of all, in each evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

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
    from .evaluate import _start

    found: Agreement = {spec: [] for spec in (*SPECS, BEFORE)}
    with ProcessPoolExecutor(cpu_count(), get_context("spawn"), _start) as pool:
        for number, its in zip(numbers, pool.map(of_combination, numbers), strict=True):
            print(f"combination {number}", flush=True)
            for spec, values in its.items():
                found[spec] += values
    figures = {
        spec: (mean(overlap for overlap, _ in values), mean(same for _, same in values))
        for spec, values in found.items()
    }
    if file:
        file.write_text(json.dumps({"agreement": figures}, indent=1) + "\n", encoding="utf-8")
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
    with watched(studio.pack, studio.layout, found):
        studio.make(combination(number), Row("", weight=None, resize=None, segmentation="all"))
    return found


@contextmanager
def watched(pack: Any, layout: Any, found: Agreement) -> Iterator[None]:
    """In this context, compare in each evaluation the regions of chosen blocks with those of all blocks."""
    choose, module = pack.attention.blocks.segmentation_blocks, pack.sampling.segmenter
    every = choose("all", layout)
    chosen = {spec: [every.index(block) for block in choose(spec, layout)] for spec in SPECS}
    regions, plain = module.Segmenter.regions, module.AttentionMaps

    class Single(plain):  # type: ignore[misc, valid-type]
        """Attention maps that also store each block's own maps."""

        def __init__(self, *sizes: Any) -> None:
            super().__init__(*sizes)
            self.sizes = sizes
            self.singles: list[Any] = []

        def add(self, *block: Any) -> None:
            super().add(*block)
            single = plain(*self.sizes)
            single.add(*block)
            self.singles.append(single)

    before: list[Tensor] = []

    def compared(segmenter: Any, *given: Any) -> Any:
        of_all, maps = regions(segmenter, *given), segmenter._maps
        found[BEFORE] += [_agreement(of_all.concepts, concepts) for concepts in before]
        before[:] = [of_all.concepts]
        for spec, blocks in chosen.items():
            segmenter._maps = {key: (row, _mean(its.singles, blocks)) for key, (row, its) in maps.items()}
            found[spec].append(_agreement(of_all.concepts, regions(segmenter, *given).concepts))
        segmenter._maps = maps
        return of_all

    with patch.object(module, "AttentionMaps", Single), patch.object(module.Segmenter, "regions", compared):
        yield


def _mean(singles: Sequence[Any], blocks: Sequence[int]) -> Any:
    """What the AttentionMaps of these blocks alone would be."""
    its = [singles[block] for block in blocks]
    background = torch.stack([single.background for single in its]).mean(dim=0)
    tokens = torch.stack([single.tokens for single in its]).mean(dim=0) if its[0].every_token else None
    return SimpleNamespace(tokens=tokens, background=background, blocks=len(its))


def _agreement(one: Tensor, other: Tensor) -> tuple[float, float]:
    overlaps = [
        float(((one == concept) & (other == concept)).sum() / ((one == concept) | (other == concept)).sum())
        for concept in torch.cat((one, other)).unique()
        if concept >= 0
    ]
    return mean(overlaps) if overlaps else 1.0, float((one == other).float().mean())
