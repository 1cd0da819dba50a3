"""`dev.py test`: static checks and every test."""

from __future__ import annotations

import argparse

from . import SHARED_CPU

VARIABLES = SHARED_CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: none, since dev.py collects the arguments that it does not know in `rest`."""
    parser.usage = "dev.py test [arguments of pytest ...]"


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from .. import checks

    return checks.main(arguments.rest)
