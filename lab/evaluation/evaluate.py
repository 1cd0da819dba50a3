"""`dev.py evaluate`: measures the paper's claims on the small model."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from devtools.pins import ROOT

from ..figures import write
from ..judge import WEIGHTS
from .rows import ABLATIONS, MAIN, ROWS, Row
from .stages import stage_table, stages_of
from .tables import Scores, Table, difference_table, figures_of, main_table, part_table

MODEL = ROOT / "devtools" / "tiny_pack" / "portraits.safetensors"
READ = (
    "+ means more is better, - less is better; after ± half the width of the mean's 95 % interval, unreliable for few"
    " pictures.",
    "docs/evaluation.md describes the measures and the rows.",
)


def main(numbers: range, names: Sequence[str], file: Path | None, pictures: Path | None) -> int:
    """Make the pictures, measure them and print the tables.

    Args:
        numbers: the combinations' numbers.
        names: of the rows; all if empty.
        file: for the figures as JSON.
        pictures: folder for a contact sheet of each combination.
    """
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        print(f"dev.py evaluate: no row {', '.join(unknown)}; there are: {', '.join(ROWS)}", file=sys.stderr)
        return 1
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    table = measure_rows([ROWS[name] for name in names] if names else [*MAIN, *ABLATIONS], numbers, pictures)
    figures = as_json(table, numbers)
    if file:
        write(file, figures)
    tables = (main_table(figures), difference_table(figures), part_table(figures), stage_table(figures["stages"]), READ)
    print("\n".join(["", *(line for lines in tables for line in (*lines, ""))]))
    return 0


def measure_rows(rows: Sequence[Row], numbers: Sequence[int], pictures: Path | None = None) -> Table:
    """The scores of each row's pictures, in the order of the combinations."""
    return in_turns(partial(_work, rows=rows, pictures=pictures), numbers)


def in_turns(work: Callable[[int], dict[str, Scores]], numbers: Sequence[int]) -> Table:
    """The scores by row, in the order of the numbers, from `work`, which gives those of one number by row."""
    found: dict[int, dict[str, Scores]] = {}
    # So small a model does not gain from a second thread: there is one process for each core.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), start_worker) as pool:
        jobs = {pool.submit(work, number): number for number in numbers}
        try:
            for job in tqdm(as_completed(jobs), total=len(jobs), desc="combinations", file=sys.stdout):
                found[jobs[job]] = job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {row: [found[number][row] for number in numbers] for row in found[numbers[0]]}


def start_worker() -> None:
    """Prepare a worker process."""
    import logging

    import torch

    from devtools import incore

    incore.prepare()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)


def _work(number: int, rows: Sequence[Row], pictures: Path | None) -> dict[str, Scores]:
    """The scores of one combination by row; also saves its contact sheet if a folder is given."""
    from ..judge import look
    from .combinations import combination
    from .measures import measure
    from .sheets import save_rows

    judge, studio = tools()
    wanted, made = combination(number), {}
    for row in rows:
        made[row.name] = studio.drawn(wanted) if row.drawn else studio.make(wanted, row)
    if pictures:
        save_rows(wanted, made, pictures / f"{number:03d}.png")
    return {name: measure(look(judge, its.picture[None]), its, wanted) for name, its in made.items()}


_TOOLS: list[Any] = []


def tools() -> tuple[Any, Any]:
    """The judge and the studio of this process."""
    if not _TOOLS:
        from ..judge import load_judge
        from .studio import Studio

        _TOOLS.extend((load_judge(), Studio()))
    return _TOOLS[0], _TOOLS[1]


def as_json(table: Table, numbers: Sequence[int]) -> dict[str, Any]:
    """All figures: those of `figures_of` and of `stages_of`, and the scores and weights that they come from."""
    return {
        "combinations": list(numbers),
        **figures_of(table),
        "stages": stages_of(table, numbers),
        "pictures": table,
        "weights": {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (MODEL, WEIGHTS) if file.is_file()
        },
    }
