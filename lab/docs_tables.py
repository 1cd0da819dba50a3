"""The tables in docs/, made from figures that are in the repository; `dev.py docs` writes them.

A table stands between the lines `<!-- table: NAME -->` and `<!-- end of table -->`. The figures are in docs/figures, in
the format of the commands' option --json: evaluation.json has those of `evaluate` without the scores of single
pictures, the files in OPTIONS those of `evaluate` with the option of that name, performance.json those of `bench`,
`bench --ways`, `bench --sizes` and `bench --shapes full --device cpu`. "placed" in it are some of the benchmark's ways
of sampling, in a run of their own.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from safetensors import safe_open

from devtools.pins import ROOT

from . import examples
from .bench.tables import sizes_table, tables, way_lines, ways_table
from .evaluation import agreement, crop, masks, prompts, refresh, styles
from .evaluation.persons import persons
from .evaluation.rows import ABLATIONS, MAIN
from .evaluation.stages import stage_table
from .evaluation.tables import BASE, difference_table, main_table, part_table
from .figures import read
from .judge import WEIGHTS

DOCS = ROOT / "docs"
FIGURES = DOCS / "figures"
SHAPE = "narrow"  # of the tables in docs/performance.md
# The columns of the table of all rows, which has less room than that of the main rows.
FEW_MEASURES = ("prompt", "fidelity", "leakage", "layout", "iou", "colour", "pattern")
_TABLE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

Tables = dict[str, list[str]]


def written_tables() -> Tables:
    """The tables whose figures are in files, by name."""
    measured, evaluated = (read(FIGURES / f"{name}.json") for name in ("performance", "evaluation"))
    of = {name: read(FIGURES / f"{name}.json")[name] for name in OPTIONS}
    main, others = ([row.name for row in rows] for rows in (MAIN, ABLATIONS))
    return {
        "judge": judge_table(),
        "main-rows": main_table(evaluated, main),
        "main-differences": difference_table(evaluated, [row for row in main if row != BASE]),
        "parts": part_table(evaluated, main),
        "stages": stage_table(evaluated["stages"]),
        "other-rows": main_table(evaluated, [BASE, *others], FEW_MEASURES),
        "other-differences": difference_table(evaluated, others),
        "prompts": prompts.prompt_table(of["prompts"]),
        "styles": styles.style_table(of["styles"]),
        "segmentation-blocks": agreement.table(of["agreement"]),
        "mask-parts": masks.part_table(of["masks"]),
        "mask-fidelity": masks.fidelity_table(of["masks"]),
        "mask-choices": masks.choice_table(of["masks"]),
        **refresh.tables(of["refresh"]),
        **crop.tables(of["crop"]),
        **persons.tables(of["persons"]),
        **{f"cost-{name}": lines for name, lines in tables(measured["shapes"][SHAPE]["summary"]).items()},
        "cost-sizes": sizes_table(measured["sizes"]),
        "cost-full": way_lines(measured["shapes"]["full"]["summary"]["ways"]),
        "ways": ways_table(measured["ways"]),
    }


PAGES = ("evaluation", "performance")
OPTIONS = ("agreement", "crop", "masks", "persons", "prompts", "refresh", "styles")


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
    return _TABLE.sub(lambda found: f"{found[1]}{chr(10).join(known[found['name']])}\n{found[3]}", text)


def main() -> int:
    """Write the tables of all pages, and the workflows' example pictures."""
    from devtools import incore

    incore.prepare()
    known: Tables = {**written_tables(), "neighbours": neighbour_table(neighbours())}
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = render(text, known)
        page.write_text(new, encoding="utf-8")
        if new != text:
            print(page.relative_to(ROOT))
    for file, picture in examples.files().items():
        if not examples.same(file, picture):
            picture.save(file, optimize=True)
            print(file.relative_to(ROOT))
    return 0
