"""`dev.py evaluate --crop`: what it is worth to crop references to their masks, by the size they are encoded at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

from devtools.model import INPUTS

from ..figures import write
from ..judge import PARTS, look
from .combinations import Combination, combination
from .evaluate import READ, in_turns, tools
from .measures import measure
from .rows import ROWS, Row
from .tables import Figures, Scores, difference_table, figures_of, lines_of

SMALL = "glasses"  # which every combination has
SIZES_PX = (192, 256)
SIZE_PX = INPUTS["MagicFaceReference"]["size"]
BASE = f"whole, {SIZE_PX} px"
COMPARED = ("prompt", "fidelity", f"fidelity {SMALL}", "leakage")


def rows() -> tuple[Row, ...]:
    """The rows: whole pictures and parts, at several sizes."""
    shipped = ROWS["as shipped"]
    return tuple(
        replace(shipped, name=f"{name}, {size} px", size_px=size, crop=crop)
        for crop, name in ((False, "whole"), (True, "cropped"))
        for size in SIZES_PX
    )


def main(numbers: range, file: Path | None) -> int:
    """Make the pictures, measure them and print the tables.

    Args:
        numbers: which of the combinations with glasses.
        file: for the figures as JSON.
    """
    chosen = [its.number for its in islice(_combinations(), numbers.stop)][numbers.start :]
    table = in_turns(partial(work, rows=rows()), chosen)
    figures = {"combinations": chosen, **figures_of(table, BASE, COMPARED)}
    if file:
        write(file, {"crop": figures})
    print("\n".join(["", *(line for lines in (*tables(figures).values(), READ) for line in (*lines, ""))]))
    return 0


def _combinations() -> Any:
    """Those combinations of the evaluation that have glasses."""
    return (its for its in map(combination, count()) if SMALL in its.required_parts)


def work(number: int, rows: tuple[Row, ...]) -> dict[str, Scores]:
    """The scores of one combination by row, and what its references cost."""
    judge, studio = tools()
    wanted = combination(number)
    scores = {}
    for row in rows:
        made = studio.make(wanted, row)
        scores[row.name] = {**measure(look(judge, made.picture[None]), made, wanted), **costs(studio, wanted, row)}
    return scores


def costs(studio: Any, wanted: Combination, row: Row) -> Scores:
    """Of the references of a combination.

    Returns:
        rows: how many UNet rows of the target's size one of them takes in a reference pass, on average; the pass takes
            time in proportion.
        tokens: how many tokens the picture can attend to, on the finest grid, on average; also of the glasses.
    """
    grids, tokens = [], {}
    for concept in wanted.concepts:
        reference = studio.reference(concept, row)
        height, width = reference.latents.shape[-2:]
        grids.append(height * width / (SIZE_PX // 8) ** 2)
        masks = studio.pack.attention.masks
        indices = masks.token_mask(reference.masks[0], (height // 2, width // 2), reference.resize).indices
        tokens[concept.part] = len(indices)
    return {
        "rows": sum(grids) / len(grids),
        "tokens": sum(tokens.values()) / len(tokens),
        f"tokens {SMALL}": float(tokens[SMALL]),
    }


def tables(figures: Figures) -> Mapping[str, list[str]]:
    """Lines of the tables: means, and differences to whole pictures of the workflows' size."""
    measures = ("rows", f"tokens {SMALL}", "prompt", "leakage", "fidelity", *(f"fidelity {part}" for part in PARTS))
    cells = {
        row: [_cell(means, name) for name in measures if _known(figures, name)]
        for row, means in figures["table"].items()
    }
    headings = [name for name in measures if _known(figures, name)]
    return {
        "crop": lines_of("references", headings, cells),
        "crop-differences": difference_table(figures, base=BASE, measures=COMPARED),
    }


def _known(figures: Figures, name: str) -> bool:
    return any(name in means for means in figures["table"].values())


def _cell(means: Mapping[str, Any], name: str) -> str:
    if name not in means:
        return ""
    mean, half = means[name]
    if name == "rows":
        return f"{mean:.2f}"
    return f"{mean:.0f}" if name.startswith("tokens") else f"{mean:.3f} ± {half:.3f}"
