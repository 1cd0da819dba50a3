"""`dev.py evaluate`: the paper's claims, measured on the small model."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import FULL_CPU

VARIABLES = FULL_CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--pairs", type=int, default=64, help="number of combinations of prompt and references")
    parser.add_argument("--first", type=int, default=0, help="number of the first combination")
    parser.add_argument(
        "--rows", default="", help='such as "none; rsa; rba; both" (default: all rows of docs/evaluation.md)'
    )
    parser.add_argument("--prompts", action="store_true", help="only measure the model alone, without references")
    parser.add_argument("--styles", action="store_true", help="only measure references in other styles than the prompt")
    parser.add_argument("--agreement", action="store_true", help="only compare the regions that some blocks find")
    parser.add_argument("--masks", action="store_true", help="only measure the masks that words find")
    parser.add_argument("--persons", action="store_true", help="only measure two persons in one picture")
    parser.add_argument("--refresh", action="store_true", help="only compare ways to compute references less often")
    parser.add_argument("--crop", action="store_true", help="only measure references that are cropped to their masks")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--pictures", type=Path, help="folder for a contact sheet of each combination")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..evaluation import agreement, crop, evaluate, masks, prompts, refresh, styles
    from ..evaluation.persons import persons

    numbers = range(arguments.first, arguments.first + arguments.pairs)
    if arguments.persons:
        return persons.main(numbers, arguments.json, arguments.pictures)
    if arguments.prompts:
        return prompts.main(numbers, arguments.json, arguments.pictures)
    if arguments.styles:
        return styles.main(numbers, arguments.json, arguments.pictures)
    if arguments.agreement:
        return agreement.main(numbers, arguments.json)
    if arguments.masks:
        return masks.main(numbers, arguments.json)
    if arguments.crop:
        return crop.main(numbers, arguments.json)
    names = [name.strip() for name in arguments.rows.split(";") if name.strip()]
    if arguments.refresh:
        return refresh.main(numbers, names, arguments.json)
    return evaluate.main(numbers, names, arguments.json, arguments.pictures)
