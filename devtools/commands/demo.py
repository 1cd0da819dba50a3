"""`dev.py demo`: pictures without the method and with it, through the API of a real ComfyUI."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import SHARED_CPU

VARIABLES = SHARED_CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for the pictures")
    parser.add_argument("--workflow", type=Path, help="another workflow in API format")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from .. import demo

    return demo.main(arguments.output, arguments.workflow)
