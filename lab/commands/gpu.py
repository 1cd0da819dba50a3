"""`dev.py gpu`: everything that is to be known of a GPU, in one command."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from . import FULL_CPU

VARIABLES = {**FULL_CPU, "KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", type=Path, help="file for the figures, written after each part")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the command itself")
    parser.add_argument("--shapes", default="full", help="shape of the model: full, narrow or tiny")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # what the command starts in a process of its own
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..gpu import command

    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported
    if arguments.part:
        from devtools import incore

        incore.prepare()
        from ..gpu import parts

        return parts.run(arguments.part, arguments.shapes, arguments.figures)
    return command.main(arguments.device, arguments.shapes, arguments.json)
