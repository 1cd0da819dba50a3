"""`dev.py evaluate`: the table of the paper's claims."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rows import ABLATIONS, MAIN, ROWS, Row

PAIRS, FEWER = 64, 2  # an ablation gets one pair in two
Scores = dict[str, float]
# Measures in the table, and whether more is better.
MEASURES = {
    "prompt": True,
    "fidelity": True,
    "leakage": False,
    "iou": True,
    "iou_steps": True,
    "colour": False,
    "histogram": False,
    "hue": False,
    "pattern": True,
}
_RESAMPLES = 2000


def main(pairs: int, names: Sequence[str], file: Path | None, pictures: Path | None) -> int:
    """Make the pictures, measure them, print the table.

    Args:
        pairs: number of combinations for the main rows; ablations get half of them.
        names: rows to do; all if empty.
        file: where to write the figures as JSON.
        pictures: folder for a contact sheet of each combination.
    """
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        print(f"dev.py evaluate: no row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
        return 1
    rows = [ROWS[name] for name in names] if names else [*MAIN, *ABLATIONS]
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    table = measured(rows, pairs, pictures)
    print_table(table)
    if file:
        file.write_text(json.dumps(as_json(table, pairs), indent=1) + "\n", encoding="utf-8")
    return 0


def measured(rows: Sequence[Row], pairs: int, pictures: Path | None = None) -> dict[str, list[Scores]]:
    """Scores of each row's pictures, by row; in the order of the combinations."""
    wanted: dict[int, list[Row]] = {}
    for row in rows:
        for number in range(pairs if row in MAIN else math.ceil(pairs / FEWER)):
            wanted.setdefault(number, []).append(row)
    table: dict[str, dict[int, Scores]] = {row.name: {} for row in rows}
    started = time.monotonic()
    # Models this small gain nothing from a second thread: a process a core.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _start) as pool:
        jobs = {pool.submit(_work, number, rows, pictures): number for number, rows in wanted.items()}
        for done, job in enumerate(as_completed(jobs), 1):
            for name, scores in job.result().items():
                table[name][jobs[job]] = scores
            left = (time.monotonic() - started) * (len(jobs) - done) / done
            print(f"combination {done} of {len(jobs)}, {left / 60:.0f} min left", flush=True)
    return {name: [by_number[number] for number in sorted(by_number)] for name, by_number in table.items()}


def _start() -> None:
    """What a worker needs before its first picture."""
    import logging

    import torch

    from .. import incore

    incore.prepare()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)


def _work(number: int, rows: Iterable[Row], pictures: Path | None) -> dict[str, Scores]:
    """Scores of one combination by row; and its contact sheet, if there is a folder for it."""
    from PIL import Image

    from ..contact_sheet import Entry, contact_sheet, dimmed
    from ..judge import look
    from .combinations import combination
    from .measures import measure

    judge, studio = _tools()
    wanted = combination(number)
    scores, made_in = {}, []
    for row in rows:
        made = studio.make(wanted, row)
        scores[row.name] = measure(look(judge, made.picture[None]), made, wanted)
        made_in.append(Entry(Image.fromarray((made.picture * 255).byte().numpy()), row.name))
    if pictures:
        references = [
            Entry(dimmed(Image.fromarray(c.portrait.picture), Image.fromarray(c.portrait.masks[c.part])), c.part)
            for c in wanted.concepts
        ]
        rows_of_eight = [made_in[first : first + 8] for first in range(0, len(made_in), 8)]
        contact_sheet([references, *rows_of_eight]).save(pictures / f"{number:03d}.png")
    return scores


_TOOLS: list[Any] = []


def _tools() -> tuple[Any, Any]:
    """This process's judge and studio."""
    if not _TOOLS:
        from ..judge import load_judge
        from .studio import Studio

        _TOOLS.extend((load_judge(), Studio()))
    return _TOOLS[0], _TOOLS[1]


def values_of(scores: Sequence[Scores], measure: str) -> NDArray[np.float64]:
    """A measure of the pictures that it applies to."""
    return np.array([entry[measure] for entry in scores if measure in entry])


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of a mean."""
    if len(values) == 0:
        return math.nan, math.nan
    chosen = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(values[chosen].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def gain(table: dict[str, list[Scores]], measure: str, row: str, over: str) -> tuple[float, float, float]:
    """Mean of one row's measure less another's on the same combinations, and its 95 % interval."""
    pairs = [
        (a[measure], b[measure]) for a, b in zip(table[row], table[over], strict=False) if measure in a and measure in b
    ]
    differences = np.array([a - b for a, b in pairs])
    return float(differences.mean()) if len(differences) else math.nan, *interval(differences)


def print_table(table: dict[str, list[Scores]]) -> None:
    """The table in Markdown: mean and half the width of its 95 % interval; then what both stages gain."""
    print("\n| row | " + " | ".join(f"{name} {'↑' if more else '↓'}" for name, more in MEASURES.items()) + " |")
    print("|---|" + "---|" * len(MEASURES))
    for row, scores in table.items():
        cells = []
        for name in MEASURES:
            values = values_of(scores, name)
            low, high = interval(values)
            digits = 1 if name == "colour" else 3
            cells.append(f"{values.mean():.{digits}f} ± {(high - low) / 2:.{digits}f}" if len(values) else "")
        print(f"| {row} ({len(scores)}) | " + " | ".join(cells) + " |")
    print()
    for name in ("fidelity", "leakage", "prompt"):
        for other in ("none", "rsa", "rba"):
            if {"both", other} <= set(table):
                mean, low, high = gain(table, name, "both", other)
                print(f"{name}: both less {other} {mean:+.3f} ({low:+.3f} to {high:+.3f})")


def as_json(table: dict[str, list[Scores]], pairs: int) -> dict[str, Any]:
    """The figures for machines: means by measure and row, intervals beside them."""

    def means(measure: str) -> dict[str, float]:
        return {
            row: float(values_of(scores, measure).mean())
            for row, scores in table.items()
            if len(values_of(scores, measure))
        }

    figures: dict[str, Any] = {measure: means(measure) for measure in MEASURES}
    figures["intervals"] = {
        measure: {row: interval(values_of(scores, measure)) for row, scores in table.items() if row in figures[measure]}
        for measure in MEASURES
    }
    figures["miou"] = figures["iou"].get("both")
    figures["pairs"] = {row: len(scores) for row, scores in table.items()}
    figures["asked"] = pairs
    return figures
