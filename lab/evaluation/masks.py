"""`dev.py evaluate --masks`: how well words find the parts of drawings, and what automatic masks are worth."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..figures import write
from ..portraits import STYLES, Portrait, caption_of, draw_portrait, generator_of
from .combinations import is_large_enough, parts_named_in
from .mask_rows import CHOICES, SHIPPED
from .rows import ROWS
from .tables import Scores, interval, lines_of, values_of

_FIRST = 1 << 29  # far from the numbers of the evaluation's other drawings
_CAPTIONS = 1 << 33
EXACT, FROM_WORDS = ROWS["as shipped"], replace(ROWS["as shipped"], name="masks from words", masks="words")
RAW = replace(SHIPPED, name="not fitted to edges", edge_px=0)
Figures = dict[str, Any]


def drawing(number: int) -> tuple[Portrait, str]:
    """Drawing `number` of this evaluation, in one of the styles, and its caption without looks."""
    portrait = draw_portrait("evaluation", _FIRST + number, style=STYLES[number % len(STYLES)])
    return portrait, caption_of(portrait, generator_of("evaluation", _CAPTIONS + _FIRST + number), with_looks=False)


def parts_of(portrait: Portrait, caption: str) -> list[str]:
    """The parts that are large enough and named in the caption."""
    named = parts_named_in(caption)
    return [part for part, mask in portrait.masks.items() if part in named and is_large_enough(part, mask)]


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """IoU of two masks."""
    return float((one & other).sum() / max(1, int((one | other).sum())))


def main(numbers: range, file: Path | None) -> int:
    """Measure, and print the tables.

    Args:
        numbers: of the drawings, and of the combinations. The first half is for choosing, the other for quoting.
        file: for the figures as JSON.
    """
    from .evaluate import measure_rows, start_worker

    half = len(numbers) // 2
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), start_worker) as pool:
        jobs = pool.map(overlaps, numbers)
        found = list(tqdm(jobs, total=len(numbers), desc="drawings", file=sys.stdout))
    table = measure_rows((EXACT, FROM_WORDS), numbers)
    figures = figures_of(found[:half], found[half:], table)
    figures["drawings"] = {"choosing": list(numbers[:half]), "quoting": list(numbers[half:])}
    if file:
        write(file, {"masks": figures})
    print("\n".join(["", *part_table(figures), "", *choice_table(figures), "", *fidelity_table(figures)]))
    return 0


def overlaps(number: int) -> dict[str, dict[str, float]]:
    """The IoU of each row's masks of one drawing, by row and part."""
    import torch

    from .evaluate import tools
    from .mask_making import MaskMaker

    portrait, caption = drawing(number)
    parts = parts_of(portrait, caption)
    maker = MaskMaker(tools()[1], portrait.picture, caption)
    with torch.inference_mode():
        made = {row.name: maker.masks(parts, row) for row in (SHIPPED, RAW, *CHOICES)} if parts else {}
    return {
        name: {part: overlap(mask, portrait.masks[part]) for part, mask in zip(parts, masks, strict=True)}
        for name, masks in made.items()
    }


def figures_of(
    choosing: Sequence[dict[str, dict[str, float]]],
    quoting: Sequence[dict[str, dict[str, float]]],
    table: dict[str, list[Scores]],
) -> Figures:
    """All figures.

    Args:
        choosing, quoting: for the drawings of each half, the IoU by row and part.
        table: the scores of the rows EXACT and FROM_WORDS.

    Returns:
        iou, iou_raw: the mean over parts of all quoted drawings, with and without the fit to edges; each also by part
            and with the interval of its mean.
        fidelity_exact, fidelity_auto: of the main evaluation with exact masks and with masks from words, and by part.
        choices: by row, the mean IoU of both halves.
    """
    figures: Figures = {}
    for key, row in (("iou", SHIPPED.name), ("iou_raw", RAW.name)):
        values = _values(quoting, row)
        figures[key] = float(values.mean()) if len(values) else None
        figures[f"{key}_interval"] = interval(values)
        parts = sorted({part for of in quoting for part in of.get(row, ())})
        figures[f"{key}_by_part"] = {part: float(np.mean(_values(quoting, row, part))) for part in parts}
    figures["choices"] = {
        row.name: [float(np.mean(_values(half, row.name))) for half in (choosing, quoting)]
        for row in (SHIPPED, RAW, *CHOICES)
    }
    for key, way in (("fidelity_exact", EXACT), ("fidelity_auto", FROM_WORDS)):
        scores = table[way.name]
        names = sorted({name for entry in scores for name in entry})
        figures[key] = float(values_of(scores, "fidelity").mean())
        figures[f"{key}_by_part"] = {
            name.removeprefix("fidelity "): float(values_of(scores, name).mean())
            for name in names
            if name.startswith("fidelity ")
        }
    pairs = zip(table[FROM_WORDS.name], table[EXACT.name], strict=True)
    lost = np.array([words["fidelity"] - exact["fidelity"] for words, exact in pairs])
    figures["fidelity_difference"] = [float(lost.mean()), *interval(lost)]
    return figures


def _values(half: Iterable[dict[str, dict[str, float]]], row: str, part: str | None = None) -> NDArray[np.float64]:
    return np.array([iou for of in half for name, iou in of.get(row, {}).items() if part in (None, name)])


def part_table(figures: Figures) -> list[str]:
    """Lines of the table of IoU by part, with and without the fit to edges."""
    parts = list(figures["iou_by_part"])
    rows = {
        name: [f"{figures[key]:.3f}", *(f"{figures[f'{key}_by_part'][part]:.3f}" for part in parts)]
        for key, name in (("iou_raw", RAW.name), ("iou", SHIPPED.name))
    }
    return lines_of("masks", ["all", *parts], rows)


def choice_table(figures: Figures) -> list[str]:
    """Lines of the table of choices."""
    rows = {name: [f"{iou:.3f}" for iou in halves] for name, halves in figures["choices"].items()}
    return lines_of("masks", ["IoU, first half", "IoU, other half"], rows)


def fidelity_table(figures: Figures) -> list[str]:
    """Lines of the table of fidelity with exact masks and with masks from words."""
    parts = list(figures["fidelity_exact_by_part"])
    rows = {
        name: [f"{figures[key]:.3f}", *(f"{figures[f'{key}_by_part'][part]:.3f}" for part in parts)]
        for key, name in (("fidelity_exact", "exact masks"), ("fidelity_auto", "masks from words"))
    }
    difference = "{:+.3f} ({:+.3f} to {:+.3f})".format(*figures["fidelity_difference"])
    return [
        *lines_of("as shipped, with", ["fidelity", *parts], rows),
        f"| difference | {difference} |" + " |" * len(parts),
    ]
