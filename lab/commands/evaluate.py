"""`dev.py evaluate`: the paper's claims, measured on the small model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import FULL_CPU

VARIABLES = FULL_CPU
# What is measured instead of the rows.
KINDS = {
    "prompts": "measure the model alone, without references",
    "styles": "measure references in other styles than the prompt",
    "agreement": "compare the regions that some blocks find",
    "masks": "measure the masks that words find",
    "persons": "measure two persons in one picture",
    "refresh": "compare ways to compute references less often",
    "crop": "measure references that are cropped to their masks",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--pairs", type=int, default=64, help="number of combinations, prompts, pairs or drawings")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument(
        "--rows", default="", help='such as "none; rsa; rba; both" (default: all rows of docs/evaluation.md)'
    )
    kinds = parser.add_mutually_exclusive_group()
    for kind, what in KINDS.items():
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=f"only {what}")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--pictures", type=Path, help="folder for a contact sheet of each one")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..evaluation import agreement, crop, evaluate, masks, prompts, refresh, styles
    from ..evaluation.persons import persons

    numbers = range(arguments.first, arguments.first + arguments.pairs)
    rows = [name.strip() for name in arguments.rows.split(";") if name.strip()]
    if rows and arguments.kind not in (None, "refresh"):
        print(f"dev.py evaluate: --rows has no meaning with --{arguments.kind}", file=sys.stderr)
        return 1
    if arguments.kind == "refresh":
        return refresh.main(numbers, rows, arguments.json)
    if arguments.kind is None:
        return evaluate.main(numbers, rows, arguments.json, arguments.pictures)
    with_pictures = {"persons": persons, "prompts": prompts, "styles": styles}
    if arguments.kind in with_pictures:
        return with_pictures[arguments.kind].main(numbers, arguments.json, arguments.pictures)
    return {"agreement": agreement, "masks": masks, "crop": crop}[arguments.kind].main(numbers, arguments.json)
