"""`dev.py bench`: what the method costs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from . import FULL_CPU

# The profiler, which measures memory, warns about every device that is missing.
VARIABLES = {**FULL_CPU, "KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--quick", action="store_true", help="only the main figures, in less than two minutes")
    parser.add_argument("--shapes", default="", help="such as tiny,narrow (default: all that take minutes here)")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu: not the GPU, if there is one")
    parser.add_argument("--rounds", type=int, help="how often each way of sampling runs, in turns (3; 1 with --quick)")
    parser.add_argument("--busy", action="store_true", help="for a busy machine: one thread, the time of the process")
    parser.add_argument("--json", type=Path, help="file for the figures, written after each measurement")
    parser.add_argument("--plot", type=Path, help="file for a plot of how the cost grows")
    parser.add_argument("--sizes", action="store_true", help="what a picture of 512, 768 and 1024 pixels costs instead")
    parser.add_argument("--ways", action="store_true", help="compare other ways of computing the same instead")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from devtools import incore

    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported
    incore.prepare()
    from ..bench import bench, clock, sizes, ways

    if arguments.busy:
        clock.use_process_time()
    if arguments.ways:
        return ways.main(arguments.json)
    if arguments.sizes:
        return sizes.main(arguments.json, arguments.rounds or 1)
    names = [name.strip() for name in arguments.shapes.split(",") if name.strip()]
    rounds = arguments.rounds or (1 if arguments.quick or names == ["full"] else 3)
    return bench.main(names, rounds, arguments.json, arguments.plot, arguments.quick)
