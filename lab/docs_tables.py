"""The tables in docs/, made from figures that are in the repository; `dev.py docs` writes them.

A table stands between the lines `<!-- table: NAME -->` and `<!-- end of table -->`. The figures are in docs/figures, in
the format of the commands' option --json: evaluation.json joins those of `evaluate`, `evaluate --agreement` and
`evaluate --persons`, masks.json has those of `evaluate --masks`, crop.json those of `evaluate --crop`, refresh.json
those of `evaluate --refresh` for the first 32 combinations and for the others, performance.json those of `bench`,
`bench --ways`, `bench --sizes` and `bench --shapes full --device cpu`. "placed" in it are some of the benchmark's ways
of sampling, in a run of their own.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import Any

from safetensors import safe_open

from devtools.pins import ROOT

from .bench.tables import sizes_table, tables, way_lines, ways_table
from .evaluation import agreement, crop, masks, refresh
from .evaluation.persons import persons
from .evaluation.rows import ABLATIONS, MAIN
from .evaluation.tables import BASE, difference_table, main_table, part_table
from .judge import WEIGHTS

DOCS = ROOT / "docs"
FIGURES = DOCS / "figures"
SHAPE = "narrow"  # of the tables in docs/performance.md
# The columns of the table of all rows, which has less room than that of the main rows.
FEW_MEASURES = ("prompt", "fidelity", "leakage", "layout", "iou", "colour", "pattern")
_TABLE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

Tables = dict[str, Callable[[], list[str]]]


def written_tables() -> Tables:
    """The tables whose figures are in files, by name."""
    evaluated, masked, measured, refreshed, cropped = (
        json.loads((FIGURES / f"{name}.json").read_text("utf-8")) for name in FILES
    )
    main, others = ([row.name for row in rows] for rows in (MAIN, ABLATIONS))
    shape = tables(measured["shapes"][SHAPE]["summary"])
    return {
        "judge": judge_table,
        "main-rows": partial(main_table, evaluated, main),
        "main-differences": partial(difference_table, evaluated, [row for row in main if row != BASE]),
        "parts": partial(part_table, evaluated, main),
        "segmentation-blocks": partial(agreement.table, evaluated["agreement"]),
        "other-rows": partial(main_table, evaluated, [BASE, *others], FEW_MEASURES),
        "other-differences": partial(difference_table, evaluated, others),
        **refresh.tables(refreshed),
        "mask-parts": partial(masks.part_table, masked),
        "mask-fidelity": partial(masks.fidelity_table, masked),
        "mask-choices": partial(masks.choice_table, masked),
        **{name: partial(list, lines) for name, lines in crop.tables(cropped["crop"]).items()},
        **{name: partial(list, lines) for name, lines in persons.tables(evaluated["persons"]).items()},
        **{f"cost-{name}": partial(list, lines) for name, lines in shape.items()},
        "cost-sizes": partial(sizes_table, measured["sizes"]),
        "cost-full": partial(way_lines, measured["shapes"]["full"]["summary"]["ways"]),
        "ways": partial(ways_table, measured["ways"]),
    }


PAGES = ("evaluation", "performance")
FILES = ("evaluation", "masks", "performance", "refresh", "crop")


def judge_table() -> list[str]:
    """The judge's accuracy on held-out drawings, from the metadata of its weights."""
    with safe_open(WEIGHTS, "pt") as file:
        scores: dict[str, float] = json.loads(file.metadata()["training"])["on held-out drawings"]
    return [
        f"| {' | '.join(scores)} |",
        "|---" * len(scores) + "|",
        f"| {' | '.join(f'{score:.3f}' for score in scores.values())} |",
    ]


def neighbour_table(neighbours: Iterable[Any]) -> list[str]:
    """The other nodes that MagicFace was tested with: the rows of tests/comfy/neighbours.py."""
    lines = ["| neighbour | patches the | outcome | |", "|---|---|---|---|"]
    for row in neighbours:
        lines.append(f"| {row.name} | {'model' if row.patches_model else 'prompt'} | {row.outcome} | {row.note} |")
    return lines


def neighbours() -> Any:
    """The rows of tests/comfy/neighbours.py. A ComfyUI must be prepared; see devtools/incore.py."""
    name = "magicface_test_rows"  # not `tests`: ComfyUI may have a folder of that name
    package = sys.modules.setdefault(name, ModuleType(name))
    package.__path__ = [str(ROOT / "tests" / "comfy")]
    return importlib.import_module(f"{name}.neighbours").NEIGHBOURS


def render(text: str, known: Tables) -> str:
    """A page with its tables made again.

    Raises:
        KeyError: a table of unknown name.
    """
    return _TABLE.sub(lambda found: f"{found[1]}{chr(10).join(known[found['name']]())}\n{found[3]}", text)


def main() -> int:
    """Write the tables of all pages."""
    from devtools import incore

    incore.prepare()
    known: Tables = {**written_tables(), "neighbours": partial(neighbour_table, neighbours())}
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = render(text, known)
        page.write_text(new, encoding="utf-8")
        if new != text:
            print(page.relative_to(ROOT))
    return 0
