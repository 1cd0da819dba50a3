"""`dev.py evaluate`: the table of the paper's claims."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap
from tqdm import tqdm

from devtools.pins import ROOT

from ..judge import WEIGHTS
from .rows import ABLATIONS, MAIN, ROWS, Row

Scores = dict[str, float]
Table = dict[str, list[Scores]]
# Measures in the table, and whether more is better.
MEASURES = {
    "prompt": True,
    "fidelity": True,
    "leakage": False,
    "layout": True,
    "iou": True,
    "iou_steps": True,
    "colour": False,
    "histogram": False,
    "hue": False,
    "pattern": True,
}
COMPARED = ("prompt", "fidelity", "leakage", "layout", "iou")  # row by row with "both"
MODEL = ROOT / "devtools" / "tiny_pack" / "portraits.safetensors"
_RESAMPLES = 2000
READ = (
    "+ more is better, - less; after ± half the width of the mean's 95 % interval, little worth for few pictures.",
    "docs/evaluation.md tells what the measures and the rows are.",
)


def main(numbers: range, names: Sequence[str], file: Path | None, pictures: Path | None) -> int:
    """Make the pictures, measure them, print the table.

    Args:
        numbers: of the combinations.
        names: rows to do; all if empty.
        file: where to write the figures as JSON.
        pictures: folder for a contact sheet of each combination.
    """
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        print(f"dev.py evaluate: no row {', '.join(unknown)}; there are: {', '.join(ROWS)}", file=sys.stderr)
        return 1
    for folder in (pictures, file and file.parent):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    table = measured([ROWS[name] for name in names] if names else [*MAIN, *ABLATIONS], numbers, pictures)
    if file:
        file.write_text(json.dumps(as_json(table, numbers), indent=1) + "\n", encoding="utf-8")
    print("\n".join(["", *in_markdown(table), "", *compared(table), "", *by_part(table), "", *READ]))
    return 0


def measured(rows: Sequence[Row], numbers: Sequence[int], pictures: Path | None = None) -> Table:
    """Scores of each row's pictures, by row; in the order of the combinations."""
    found: dict[int, dict[str, Scores]] = {}
    # Models this small gain nothing from a second thread: a process a core.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _start) as pool:
        jobs = {pool.submit(_work, number, rows, pictures): number for number in numbers}
        try:
            for job in tqdm(as_completed(jobs), total=len(jobs), desc="combinations"):
                found[jobs[job]] = job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {row.name: [found[number][row.name] for number in numbers] for row in rows}


def _start() -> None:
    """What a worker needs before its first picture."""
    import logging

    import torch

    from devtools import incore

    incore.prepare()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)


def _work(number: int, rows: Sequence[Row], pictures: Path | None) -> dict[str, Scores]:
    """Scores of one combination by row; and its contact sheet, if there is a folder for it."""
    from PIL import Image

    from devtools.contact_sheet import Entry, contact_sheet, dimmed

    from ..judge import look
    from .combinations import combination
    from .measures import measure

    judge, studio = _tools()
    wanted = combination(number)
    scores, entries = {}, []
    for row in rows:
        made = studio.make(wanted, row)
        scores[row.name] = measure(look(judge, made.picture[None]), made, wanted)
        entries.append(Entry(Image.fromarray((made.picture * 255).byte().numpy()), row.name))
    if pictures:
        first = [(concept.part, concept.views[0].portrait) for concept in wanted.concepts]
        references = [
            Entry(dimmed(Image.fromarray(portrait.picture), Image.fromarray(portrait.masks[part])), part)
            for part, portrait in first
        ]
        of_eight = [entries[place : place + 8] for place in range(0, len(entries), 8)]
        contact_sheet([references, *of_eight]).save(pictures / f"{number:03d}.png")
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
    """95 % bootstrap interval of a mean, by the percentile method."""
    if len(values) < 2:
        mean = float(values[0]) if len(values) else math.nan
        return mean, mean
    found = bootstrap(
        (values,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def gain(table: Table, measure: str, row: str, over: str) -> tuple[float, float, float]:
    """Mean of one row's measure less another's on the same combinations, and its 95 % interval."""
    pairs = [(a[measure], b[measure]) for a, b in zip(table[row], table[over], strict=True) if measure in a.keys() & b]
    differences = np.array([a - b for a, b in pairs])
    return float(differences.mean()) if len(differences) else math.nan, *interval(differences)


def in_markdown(table: Table) -> list[str]:
    """Lines of the table: mean and half the width of its 95 % interval."""
    lines = ["| row | " + " | ".join(f"{name} {'+' if more else '-'}" for name, more in MEASURES.items()) + " |"]
    lines.append("|---|" + "---|" * len(MEASURES))
    for row, scores in table.items():
        cells = [cell(values_of(scores, name), 1 if name == "colour" else 3) for name in MEASURES]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def cell(values: NDArray[np.float64], digits: int = 3) -> str:
    """A mean and half the width of its interval; nothing where there is nothing."""
    if len(values) == 0:
        return ""
    low, high = interval(values)
    return f"{values.mean():.{digits}f} ± {(high - low) / 2:.{digits}f}"


def compared(table: Table) -> list[str]:
    """Lines of a second table: each row less "both" on the same combinations, with 95 % intervals."""
    if "both" not in table:
        return []
    lines = ["| difference to both | " + " | ".join(COMPARED) + " |", "|---|" + "---|" * len(COMPARED)]
    for row in table:
        gains = [gain(table, name, row, "both") for name in COMPARED]
        cells = ["" if math.isnan(mean) else f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, low, high in gains]
        if row != "both":
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def by_part(table: Table) -> list[str]:
    """Lines of a third table: fidelity by part, and by whether training saw the look."""
    kinds = sorted({name for scores in table.values() for entry in scores for name in entry if " " in name})
    lines = ["| row | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    return lines + [
        f"| {row} | " + " | ".join(cell(values_of(scores, kind)) for kind in kinds) + " |"
        for row, scores in table.items()
    ]


def as_json(table: Table, numbers: range) -> dict[str, Any]:
    """The figures for machines: means by measure and row, and all that they come from."""
    names = sorted({name for scores in table.values() for entry in scores for name in entry})
    present = {
        name: {row: values for row, scores in table.items() if len(values := values_of(scores, name))} for name in names
    }
    figures: dict[str, Any] = {
        name: {row: float(values.mean()) for row, values in rows.items()} for name, rows in present.items()
    }
    figures["miou"] = figures.get("iou", {}).get("both")
    figures["intervals"] = {
        name: {row: interval(values) for row, values in rows.items()} for name, rows in present.items()
    }
    figures["combinations"] = list(numbers)
    figures["pictures"] = table
    figures["weights"] = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (MODEL, WEIGHTS) if file.is_file()
    }
    return figures
