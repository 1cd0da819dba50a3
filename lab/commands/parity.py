"""`dev.py parity`: compare with recorded runs of the authors' program."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import SHARED_CPU

VARIABLES = SHARED_CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a recorded run")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from devtools import incore

    incore.prepare()
    from .. import parity

    return parity.main([str(file) for file in arguments.files])
