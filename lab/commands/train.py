"""`dev.py train`: train the small model and the judge."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import FULL_CPU

# Each part of a step has one thread. Threads inside layers wait for each other much more often, which costs most where
# other programs use the CPU too.
VARIABLES = {**FULL_CPU, "OMP_NUM_THREADS": "1"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--minutes", type=float, help="stop after this time, with a checkpoint")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    begin.add_argument(
        "--start", type=Path, help="weights of an earlier training: keep its autoencoder, and begin the model with them"
    )
    parser.add_argument("--only", choices=["judge", "autoencoder", "model"], help="train nothing else")
    parser.add_argument("--output", type=Path, default=Path("trained"), help="folder for the weights")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from devtools import incore

    incore.prepare()
    from ..training import train

    return train.main(arguments.minutes, arguments.resume, arguments.output, arguments.only, arguments.start)
