"""What the layout stage adds to the blend stage: the main rows again, by groups of combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .combinations import MAX_CONCEPTS, style_of
from .tables import Figures, Scores, Table, gain, gain_cell, lines_of

BOTH, BLEND, NONE = "both", "rba", "none"
COMPARED = ("prompt", "fidelity", "leakage", "layout", "iou")


def stages_of(table: Table, numbers: Sequence[int]) -> Figures:
    """For each group its size ("pictures"), and for each measure the mean gain of both stages and its interval.

    Args:
        table: the scores of each row.
        numbers: of the combinations.

    Returns:
        The figures by group; none without the three rows.
    """
    if not {BOTH, BLEND, NONE} <= set(table):
        return {}
    figures: Figures = {}
    for name, chosen in groups(table[NONE], numbers).items():
        some = {row: [table[row][index] for index in chosen] for row in (BOTH, BLEND)}
        gains = {measure: gain(some, measure, BOTH, BLEND) for measure in COMPARED}
        figures[name] = {"pictures": len(chosen), **{key: list(its) for key, its in gains.items() if its[0] == its[0]}}
    return figures


def groups(scores: Sequence[Scores], numbers: Sequence[int]) -> dict[str, list[int]]:
    """The indices of the combinations in each group.

    Args:
        scores: of the pictures without the method, which say how far the concepts are from where their references have
            them. A row that is compared cannot say so: it would look worst where it has them far away.
        numbers: of the combinations.
    """
    found: dict[str, list[int]] = {"all": list(range(len(numbers)))}
    for index, number in enumerate(numbers):
        count = 1 + number % MAX_CONCEPTS
        found.setdefault(f"{count} concept{'s' if count > 1 else ''}", []).append(index)
    for index, number in enumerate(numbers):
        found.setdefault(style_of(number), []).append(index)
    moved = np.array([entry.get("moved", np.nan) for entry in scores])
    if not np.isnan(moved).all():
        middle = np.nanmedian(moved)
        found["near their references' places"] = np.flatnonzero(moved <= middle).tolist()
        found["far from them"] = np.flatnonzero(moved > middle).tolist()
    return {name: chosen for name, chosen in found.items() if chosen}


def stage_table(figures: Mapping[str, Figures]) -> list[str]:
    """Lines of the table of gains by group; none without figures."""
    if not figures:
        return []
    rows = {
        name: [str(its["pictures"]), *(gain_cell(its[measure]) if measure in its else "" for measure in COMPARED)]
        for name, its in figures.items()
    }
    return lines_of(f"{BOTH} compared with {BLEND}", ("pictures", *COMPARED), rows)
