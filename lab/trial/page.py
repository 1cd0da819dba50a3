"""The page of a trial: one HTML file with everything in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image, ImageOps

from devtools.contact_sheet import dim

from .drawing import colour_of, data_uri, over, small
from .grid import DEFAULT, WITHOUT, Setting
from .measures import Run
from .report import Trial, without_places
from .verdicts import Verdict

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_NAMES = {DEFAULT: "defaults", WITHOUT: "without MagicFace"}


@dataclass(frozen=True)
class Tile:
    """A run on the page.

    Attributes:
        run: its figures.
        label: the value that it was made with.
        alt: what a reader hears who does not see the pictures.
        picture, regions: data URIs; empty if the run failed.
        usual: whether the value is the default.
    """

    run: Run
    label: str
    alt: str
    picture: str = ""
    regions: str = ""
    usual: bool = False


@dataclass(frozen=True)
class Sheet:
    """All runs of a setting: a row for each seed, a column for each value."""

    setting: Setting
    rows: list[tuple[int, list[Tile]]]


@dataclass(frozen=True)
class ReferencePicture:
    """A reference, faded outside its mask."""

    word: str
    caption: str
    picture: str
    mask: str


def page_of(trial: Trial) -> str:
    """The page as HTML."""
    tiles = {(run.variant.id, run.seed): _tile(trial, run) for run in trial.runs}
    seeds = [run.seed for run in trial.runs if run.variant.id == DEFAULT]
    return _TEMPLATES.get_template("page.html").render(
        trial=trial,
        name=trial.checkpoint or "the small model",
        colours={word: colour_of(word, trial.words) for word in trial.words},
        references=_references(trial),
        seeds=seeds,
        first=[(seed, [tiles[WITHOUT, seed], tiles[DEFAULT, seed]]) for seed in seeds],
        sheets=[_sheet(verdict, tiles, seeds) for verdict in trial.verdicts],
        notes=_notes(trial),
        shown=shown,
    )


def shown(value: Any) -> str:
    """A value as the editor shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tile(trial: Trial, run: Run) -> Tile:
    setting = run.variant.setting
    label = f"{setting.name} {shown(run.variant.value)}" if setting else _NAMES[run.variant.id]
    alt = f"{label}, seed {run.seed}"
    if run.picture is None:
        return Tile(run, label, f"{alt}: failed")
    found = ", ".join(f"{word} {part:.0%}" for word, part in run.shares.items()) or "no regions"
    with Image.open(run.picture) as opened:
        picture = small(opened)
    regions = over(picture, run.regions, run.words, trial.words)
    return Tile(run, label, f"{alt}: {found}", data_uri(picture), data_uri(regions))


def _sheet(verdict: Verdict, tiles: Mapping[tuple[str, int], Tile], seeds: Sequence[int]) -> Sheet:
    rows = []
    for seed in seeds:
        row = [tiles[score.variant, seed] for score in verdict.ordered]
        label = f"{verdict.setting.name} {shown(verdict.default.value)}"
        rows.append(
            (seed, [replace(one, label=label, usual=True) if one.run.variant.id == DEFAULT else one for one in row])
        )
    return Sheet(verdict.setting, rows)


def _references(trial: Trial) -> list[ReferencePicture]:
    found = []
    for given, used, agreement in zip(trial.given, trial.concepts, trial.agreement, strict=True):
        assert used.mask is not None
        with Image.open(used.picture) as picture, Image.open(used.mask) as mask:
            faded = dim(ImageOps.exif_transpose(picture), mask)
        text = "mask found by the word"
        if given.mask:
            text = "mask given" + ("" if agreement is None else f"; that of the word agrees {agreement:.2f} with it")
        found.append(ReferencePicture(used.word, used.caption, data_uri(faded), text))
    return found


def _notes(trial: Trial) -> dict[str, list[str]]:
    """What MagicFace or the server said, and the runs of which it was said."""
    notes: dict[str, list[str]] = {}
    for run in trial.runs:
        for text in (*run.findings, *((f"failed: {run.error}",) if run.error else ())):
            notes.setdefault(without_places(text), []).append(f"{run.variant.id}, seed {run.seed}")
    return notes
