"""The figures of an evaluation, with their intervals, and the tables made of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

Scores = dict[str, float]
Table = dict[str, list[Scores]]
Figures = dict[str, Any]
# Measures in the table, and whether more is better.
MEASURES = {
    "style": True,
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
COUNTS = {"passes": False}
# Those of two persons in one picture.
PERSON_MEASURES = {
    "style": True,
    "persons": True,
    "fidelity": True,
    "swapped": False,
    "between": False,
    "leakage": False,
    "iou": True,
}
# Those of pictures without references, and of references in another style than the prompt. The last two are neither
# better nor worse if higher.
OTHER_MEASURES = {"colour word": True, "overlap": True, "sharpness": None, "copied": None}
COMPARED = ("prompt", "fidelity", "leakage", "layout", "iou")  # row by row with the row BASE
BASE = "both"
_BETTER: dict[str, bool | None] = {**MEASURES, **PERSON_MEASURES, **OTHER_MEASURES, **COUNTS}
_SIGNS = {True: "+", False: "-", None: ""}
_RESAMPLES = 2000


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
    """Mean difference of a measure between two rows on the same combinations, and its 95 % interval; nan if none."""
    pairs = [(a[measure], b[measure]) for a, b in zip(table[row], table[over], strict=True) if measure in a.keys() & b]
    differences = np.array([a - b for a, b in pairs])
    return float(differences.mean()) if len(differences) else math.nan, *interval(differences)


def figures_of(table: Table, base: str = BASE, measures: Sequence[str] = COMPARED) -> Figures:
    """The figures that the tables show.

    Args:
        table: the scores of each row.
        base: the row that the others are compared with, if it is in the table.
        measures: in which they are compared.

    Returns:
        table: for each row and measure the mean, and half the width of its interval.
        differences: for each row and measure the mean difference to the row `base`, and both ends of its interval.
    """
    means: dict[str, dict[str, list[float]]] = {}
    for row, scores in table.items():
        values = {name: values_of(scores, name) for name in sorted({name for entry in scores for name in entry})}
        ends = {name: interval(its) for name, its in values.items()}
        means[row] = {name: [float(its.mean()), (ends[name][1] - ends[name][0]) / 2] for name, its in values.items()}
    compared = [row for row in table if row != base] if base in table else []
    gains = {row: {name: gain(table, name, row, base) for name in measures} for row in compared}
    differences = {
        row: {name: list(its) for name, its in entries.items() if not math.isnan(its[0])}
        for row, entries in gains.items()
    }
    return {"table": means, "differences": differences}


def main_table(
    figures: Figures, rows: Iterable[str] | None = None, measures: Iterable[str] = tuple(MEASURES)
) -> list[str]:
    """Lines of the table of means.

    Args:
        figures: see `figures_of`.
        rows: in the table; all by default.
        measures: the columns.
    """
    headings = [f"{name} {_SIGNS[_BETTER[name]]}".rstrip() for name in measures]
    return lines_of("row", headings, {row: _means(figures, row, measures) for row in rows or figures["table"]})


def difference_table(
    figures: Figures, rows: Iterable[str] | None = None, base: str = BASE, measures: Sequence[str] = COMPARED
) -> list[str]:
    """Lines of the table of differences to the row `base`; none without that row."""
    if not figures["differences"]:
        return []
    cells = {}
    for row in rows or figures["differences"]:
        gains = figures["differences"][row]
        cells[row] = [gain_cell(gains[name]) if name in gains else "" for name in measures]
    return lines_of(f"difference to {base}", measures, cells)


def gain_cell(gain: Sequence[float]) -> str:
    """A mean difference and its interval."""
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*gain)


def part_table(figures: Figures, rows: Iterable[str] | None = None) -> list[str]:
    """Lines of the table of fidelity by part, and by whether training saw the look."""
    kinds = sorted({name for means in figures["table"].values() for name in means if name.startswith("fidelity ")})
    return lines_of("row", kinds, {row: _means(figures, row, kinds) for row in rows or figures["table"]})


def _means(figures: Figures, row: str, measures: Iterable[str]) -> list[str]:
    cells, means = [], figures["table"][row]
    for name in measures:
        digits = 1 if name in ("colour", "sharpness", *COUNTS) else 3
        cells.append("{:.{d}f} ± {:.{d}f}".format(*means[name], d=digits) if name in means else "")
    return cells


def lines_of(corner: str, headings: Sequence[str], rows: dict[str, list[str]]) -> list[str]:
    """Lines of a table.

    Args:
        corner: the heading of the rows' names.
        headings: of the other columns.
        rows: the cells of each row, by its name.
    """
    lines = [f"| {corner} | {' | '.join(headings)} |", "|---|" + "---|" * len(headings)]
    return lines + [f"| {row} | {' | '.join(cells)} |" for row, cells in rows.items()]
