"""`dev.py evaluate --prompts`: the small model alone, on held-out prompts that name looks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from devtools.contact_sheet import Entry, contact_sheet

from ..figures import write
from ..finishes import Style
from ..judge import Verdict, look
from ..portraits import LOOKS, PATTERNS, STYLES, WORN, Portrait, caption_of, draw_portrait, generator_of, palette_of
from .evaluate import in_turns, tools
from .measures import parts_seen, pixels_and_masks
from .rows import ROWS
from .sheets import as_image, as_tensor
from .tables import Figures, Scores, Table, figures_of, main_table

MEASURES = ("style", "prompt", "pattern", "colour word", "overlap", "sharpness")
WAYS = ("drawn", "redrawn", "made")
DENOISE = 0.6  # of what is redrawn
_FIRST, _CAPTIONS = 1 << 28, 1 << 33  # far from the numbers of the evaluation's other drawings


def main(numbers: range, file: Path | None, pictures: Path | None) -> int:
    """Make the pictures, measure them and print the table.

    Args:
        numbers: of the prompts; their styles cycle through `STYLES`.
        file: for the figures as JSON.
        pictures: folder for a picture of each prompt: a drawing, the same redrawn, and one from noise.
    """
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    table = in_turns(partial(_work, pictures=pictures), numbers)
    by_style: Table = {f"{way}, {style}": [] for way in WAYS for style in STYLES}
    for way in WAYS:
        for number, scores in zip(numbers, table[way], strict=True):
            by_style[f"{way}, {style_of(number)}"].append(scores)
    by_style = {name: scores for name, scores in by_style.items() if scores}
    figures = {"prompts": list(numbers), **figures_of(by_style, "")}
    if file:
        write(file, {"prompts": figures})
    print("\n".join(prompt_table(figures)))
    return 0


def prompt_table(figures: Figures) -> list[str]:
    """Lines of the table of means."""
    return main_table(figures, measures=MEASURES)


def style_of(number: int) -> Style:
    """The style of a prompt, which changes with each number."""
    return STYLES[number % len(STYLES)]


def held_out(number: int) -> tuple[Portrait, str]:
    """A drawing that the model never saw, and its caption with looks."""
    portrait = draw_portrait("evaluation", _FIRST + number, style=style_of(number))
    return portrait, caption_of(portrait, generator_of("evaluation", _CAPTIONS + _FIRST + number), with_looks=True)


def _work(number: int, pictures: Path | None) -> dict[str, Scores]:
    judge, studio = tools()
    portrait, prompt = held_out(number)
    drawn = as_tensor(portrait.picture)
    made = {
        "drawn": drawn,
        "redrawn": studio.sample(prompt, (), ROWS["none"], number, start=drawn, denoise=DENOISE).picture,
        "made": studio.sample(prompt, (), ROWS["none"], number).picture,
    }
    if pictures:
        contact_sheet([[Entry(as_image(its), name) for name, its in made.items()]]).save(pictures / f"{number:03d}.png")
    scores = {name: measure(look(judge, its[None]), portrait, prompt) for name, its in made.items()}
    for name, its in made.items():
        scores[name]["sharpness"] = sharpness(its)
    del scores["made"]["overlap"]  # the model need not draw the same figure
    return scores


def measure(verdict: Verdict, portrait: Portrait, prompt: str) -> Scores:
    """How well a picture does what a prompt says.

    Args:
        verdict: the judge's.
        portrait: the drawing that the prompt describes.
        prompt: with looks.

    Returns:
        style, prompt, pattern: as in `lab.evaluation.measures.measure`, of the parts that the prompt names.
        colour word: share of the plain parts whose mean colour is nearest to the one that the prompt names.
        overlap: mean IoU of the drawing's parts with the judge's.
    """
    pixels, masks = pixels_and_masks(verdict)
    seen = parts_seen(masks)
    scores: dict[str, list[float]] = {"style": [float(STYLES[int(verdict.styles[0])] == portrait.style)]}

    def add(name: str, value: float) -> None:
        scores.setdefault(name, []).append(value)

    for part in WORN:
        add("prompt", float((part in seen) == (part in portrait.masks)))
    for part, mask in portrait.masks.items():
        step = mask.shape[0] // masks[part].shape[0]
        true = mask[::step, ::step]
        add("overlap", float((true & masks[part]).sum() / max(int((true | masks[part]).sum()), 1)))
        look_of = portrait.looks[part]
        if f"{look_of.words} {part}" not in prompt or part not in seen:
            continue
        if LOOKS[part][0] < 1:
            filled = verdict.patterns[0][:, torch.from_numpy(masks[part])].mean(1)
            add("pattern", float(PATTERNS[int(filled.argmax())] == look_of.pattern))
        if look_of.pattern == "plain":
            mean = pixels[masks[part]].mean(axis=0)
            nearest = min(palette_of(part).items(), key=lambda entry: float(np.linalg.norm(mean - entry[1])))[0]
            add("colour word", float(nearest == look_of.colour))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def sharpness(picture: torch.Tensor) -> float:
    """The 99th percentile of the differences between neighbouring pixels of (h, w, 3) in 0..1, in 0..255."""
    grey = picture.mean(-1)
    steps = torch.cat([grey.diff(dim=axis).abs().flatten() for axis in (0, 1)])
    return float(steps.quantile(0.99)) * 255
