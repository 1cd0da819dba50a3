"""`dev.py docs`: the tables of docs/ and the example pictures of the workflows."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: it has none."""


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from .. import docs_tables

    return docs_tables.main()
