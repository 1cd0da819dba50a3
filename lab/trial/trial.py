"""`dev.py trial`, from the pictures of references to the page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devtools.client import Prompt
from devtools.server import ServerError

from .. import figures
from .concepts import Concept, check_prompt, read_concepts, shipped, usual_prompt
from .errors import TrialError
from .grid import QUICK_SEEDS, SEEDS, settings, variants
from .host import Host, host
from .page import page_of, shown
from .prompts import Graph, change, picture_prompt, words_prompt
from .report import Trial, defaults_in, figures_of, made_with, mask_agreement
from .stages import Stages, with_masks
from .verdicts import verdicts

PAGE, FIGURES, WORK = "trial.html", "trial.json", "runs"
SIDE_PX, EMBEDDED_PX = 1024, 256


@dataclass(frozen=True)
class Request:
    """What is asked for; see the arguments of the command."""

    checkpoint: str | None
    server: str | None
    concepts: Path | None
    prompt: str | None
    size_px: int | None
    changes: Sequence[str]
    quick: bool
    output: Path

    @property
    def side_px(self) -> int:
        """The side of the pictures."""
        return self.size_px or (SIDE_PX if self.checkpoint else EMBEDDED_PX)


def main(request: Request) -> int:
    """Make a trial, write its page and its figures, and print what they say."""
    try:
        concepts, text = shipped()
        if request.concepts:
            concepts = read_concepts(request.concepts, request.output / WORK / "masks")
            text = usual_prompt([concept.word for concept in concepts])
        text = request.prompt or text
        check_prompt(text, [concept.word for concept in concepts])
        with host(request.server, request.checkpoint) as where:
            trial = make(where, request, concepts, text)
    except (TrialError, ServerError, OSError) as error:
        print(f"dev.py trial: {error}", file=sys.stderr)
        return 1
    page = request.output / PAGE
    page.write_text(page_of(trial), encoding="utf-8")
    figures.write(request.output / FIGURES, figures_of(trial))
    print("\n".join(summary(trial)))
    print(f"The pictures: {page.resolve()}\nFigures for a report: {(request.output / FIGURES).resolve()}")
    return 0


def make(where: Host, request: Request, given: Sequence[Concept], text: str) -> Trial:
    """Run all three lists, and measure.

    Raises:
        TrialError: it cannot be made.
    """
    with_it, without, finder, *finders = prompts_of(where, request, given, text)
    words = [concept.word for concept in given]
    defaults = defaults_in(with_it)
    by_place = {f"{kind}.{name}": value for kind, inputs in defaults.items() for name, value in inputs.items()}
    grid = settings(request.side_px)
    seeds = QUICK_SEEDS if request.quick else SEEDS
    todo = [(variant, seed) for variant in variants(grid, by_place, request.quick) for seed in seeds]

    stages = Stages(where, request.output / WORK)
    masks = stages.references(given, finders)
    concepts = with_masks(given, masks)
    runs = stages.words(stages.pictures(concepts, (with_it, without), todo), finder, words)
    return Trial(
        made_with(where), where.checkpoint and Path(where.checkpoint.replace("\\", "/")).name, text, request.side_px,
        defaults, given, concepts, mask_agreement(given, masks), runs, verdicts(runs, by_place, words),
    )  # fmt: skip


def prompts_of(where: Host, request: Request, concepts: Sequence[Concept], text: str) -> list[Prompt]:
    """The prompts with and without MagicFace, the one that finds words in pictures, and those for each reference."""
    graphs = (Graph(where.known, where.checkpoint) for _ in range(3 + len(concepts)))
    prompts = [
        picture_prompt(next(graphs), concepts, text, request.side_px, with_magicface=True),
        picture_prompt(next(graphs), concepts, text, request.side_px, with_magicface=False),
        words_prompt(next(graphs), text, [concept.word for concept in concepts]),
        *(words_prompt(next(graphs), concept.caption, [concept.word]) for concept in concepts),
    ]
    for text_of_change in request.changes:
        change(prompts, text_of_change)
    return prompts


def summary(trial: Trial) -> list[str]:
    """What the measures say, in lines."""
    failed = sum(run.error is not None for run in trial.runs)
    lines = [f"{failed} of {len(trial.runs)} pictures failed; the page says why"] if failed else []
    for verdict in trial.verdicts:
        best, usual = verdict.best, verdict.default
        if verdict.clear:
            lines.append(
                f"{verdict.setting.name} {shown(best.value)} instead of {shown(usual.value)}:"
                f" agreement {best.agreement:.2f} instead of {usual.agreement:.2f},"
                f" concepts found {best.found:.0%} instead of {usual.found:.0%}"
            )
    if not any(verdict.clear for verdict in trial.verdicts):
        lines.append("By the measures no setting is clearly better than its default.")
    return [*lines, "How the pictures look is for you to judge."]
