"""`dev.py locales`: the English texts of the nodes."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: it has none."""


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from .. import locales

    return locales.main()
