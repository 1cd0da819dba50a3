"""`dev.py bench`: what the method costs."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import FULL_CPU

# The profiler, which measures memory, warns about every device that is missing.
VARIABLES = {**FULL_CPU, "KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--shapes", default="", help="such as tiny,narrow (default: all that this machine can run)")
    parser.add_argument("--rounds", type=int, default=3, help="how many times each way of sampling runs, in turns")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="file for a plot of how the cost grows")
    parser.add_argument("--ways", action="store_true", help="compare other ways of computing the same instead")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from devtools import incore

    incore.prepare()
    from ..bench import bench, ways

    if arguments.ways:
        return ways.main(arguments.json)
    names = [name.strip() for name in arguments.shapes.split(",") if name.strip()]
    return bench.main(names, arguments.rounds, arguments.json, arguments.plot)
