"""`dev.py soak`: many different prompts on one server."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import SHARED_CPU

VARIABLES = SHARED_CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--prompts", type=int, default=200, help="number of prompts")
    parser.add_argument(
        "--every", type=int, default=10, help="prompts queued at a time; a new process repeats the last one of them"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from .. import soak

    return soak.main(arguments.prompts, arguments.every, arguments.json)
