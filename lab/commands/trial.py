"""`dev.py trial`: finds the settings for a checkpoint of your own."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import SHARED_CPU

VARIABLES = SHARED_CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--checkpoint", help="a file, or a name that ComfyUI knows (default: the small model)")
    parser.add_argument("--server", metavar="URL", help="a running ComfyUI with the pack (default: one is started)")
    parser.add_argument(
        "--concepts", type=Path, metavar="DIR",
        help="pictures named by their words: hat.png, and if you like hat_mask.png and a caption in hat.txt",
    )  # fmt: skip
    parser.add_argument("--prompt", help="with the word of every picture (default: a person with all of them)")
    parser.add_argument(
        "--size", type=int, metavar="PX", help="side of the pictures (default: 1024; give 512 for SD 1.x)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="such as KSampler.steps=20, for all"
    )
    parser.add_argument("--quick", action="store_true", help="a handful of pictures with one seed")
    parser.add_argument(
        "--output", type=Path, default=Path("trial_output"), help="folder for page, figures and pictures; %(default)s"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..trial import trial

    return trial.main(
        trial.Request(
            arguments.checkpoint, arguments.server, arguments.concepts, arguments.prompt, arguments.size,
            arguments.set, arguments.quick, arguments.output,
        )
    )  # fmt: skip
