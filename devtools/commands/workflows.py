"""`dev.py workflows`: the files that are made from the shipped workflows."""

from __future__ import annotations

import argparse

from . import SHARED_CPU

VARIABLES = SHARED_CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--pictures", action="store_true", help="also make thumbnails, the pictures of the help pages and of the demo"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from .. import workflows

    return workflows.main(arguments.pictures)
