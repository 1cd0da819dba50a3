"""`dev.py evaluate --styles`: references in one style and the prompt in another, for each pair of styles."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..figures import write
from ..judge import look
from ..portraits import STYLES
from .combinations import combination
from .evaluate import in_turns, tools
from .measures import colours_of, fidelity_of, measure
from .rows import ROWS
from .sheets import save_joined, save_styles
from .tables import Figures, Scores, figures_of, main_table

MEASURES = ("style", "prompt", "fidelity", "copied", "pattern", "leakage")
PAIRS = tuple((seen, asked) for asked in STYLES for seen in STYLES)  # style of the references, and of the prompt
SHOWN = (0, 17)  # of the combinations, in the picture of docs/evaluation.md


def main(numbers: range, file: Path | None, pictures: Path | None) -> int:
    """Make the pictures, measure them and print the table.

    Args:
        numbers: the combinations' numbers.
        file: for the figures as JSON.
        pictures: folder for a contact sheet of each combination.
    """
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    table = in_turns(partial(_work, pictures=pictures), numbers)
    figures = {"combinations": list(numbers), **figures_of(table, "")}
    if file:
        write(file, {"styles": figures})
    if pictures and set(SHOWN) <= set(numbers):
        save_joined([pictures / f"{number:03d}.png" for number in SHOWN], pictures / "styles.jpg")
    print("\n".join(style_table(figures)))
    return 0


def style_table(figures: Figures) -> list[str]:
    """Lines of the table of means."""
    return main_table(figures, measures=MEASURES)


def _work(number: int, pictures: Path | None) -> dict[str, Scores]:
    """The scores of one combination by pair of styles; also saves its contact sheet if a folder is given."""
    judge, studio = tools()
    scores, made = {}, {}
    for seen, asked in PAIRS:
        wanted = combination(number, asked, seen)
        its = made[seen, asked] = studio.make(wanted, ROWS["as shipped"])
        found = measure(look(judge, its.picture[None]), its, wanted)
        copied = [
            fidelity_of(colours_of(concept.views[0].portrait, concept.part), concept) for concept in wanted.concepts
        ]
        scores[f"{seen} references, {asked} prompt"] = {**found, "copied": sum(copied) / len(copied)}
    if pictures:
        save_styles([combination(number, style) for style in STYLES], made, pictures / f"{number:03d}.png")
    return scores
