"""`dev.py serve`: ComfyUI with the pack and its example pictures, for a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import SHARED_CPU

VARIABLES = SHARED_CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--port", type=int, help="port to listen on (default: 8188, or a free one if that is in use)")
    parser.add_argument("--base", type=Path, help="folder for ComfyUI's input, output and settings")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from .. import serve

    return serve.main(arguments.port, arguments.base)
