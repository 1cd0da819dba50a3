"""The options that change a workflow: on the command line, and as the columns of a job list."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_SEEDS = 100_000  # of one range


@dataclass(frozen=True)
class Option:
    """An option; one with a `key` stands once for each key, as KEY=VALUE or in a column NAME.KEY."""

    name: str
    value: str
    help: str
    parse: Callable[[str], Any] = str
    key: str = ""


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE as two."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '='")
    return name.strip(), value


def setting(text: str) -> tuple[str, str, str]:
    """NODE.INPUT=VALUE as three."""
    place, value = pair(text)
    node, dot, name = place.partition(".")
    if not dot:
        raise argparse.ArgumentTypeError(f"{place!r} has no '.', as KSampler.steps has")
    return node, name, value


def seeds(text: str) -> range:
    """A number, or two with a hyphen: 7 is one seed, 1-24 are 24."""
    found = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, and no range of them as 1-24 is")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 0 <= last - first < MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text!r} has to be a range from low to high of at most {MOST_SEEDS} seeds")
    return range(first, last + 1)


OPTIONS = (
    Option("picture", "FILE", "a picture of yours for a concept; it is uploaded", pair, "CONCEPT"),
    Option("mask", "FILE", "the concept's mask on that picture, white where it is", pair, "CONCEPT"),
    Option("caption", "TEXT", "what that picture shows", pair, "CONCEPT"),
    Option("word", "WORD", "another word for the concept, for the caption and the prompt", pair, "CONCEPT"),
    Option("prompt", "TEXT", "the text of MagicFace Prompt"),
    Option("seed", "NUMBER", "of every sampler and noise node; in a job list also a range, as 1-24", seeds),
    Option(
        "set",
        "VALUE",
        "any other input, of all nodes of a class (KSampler.steps=40) or of one node by its number (40.weight=2)",
        setting,
        "NODE.INPUT",
    ),
)


def parser() -> argparse.ArgumentParser:
    """The command line of `queue_workflow.py`."""
    made = argparse.ArgumentParser(description="Queue a MagicFace workflow in API format.")
    add_options(made)
    made.add_argument("--output", type=Path, default=Path("output"), help="folder for the pictures; %(default)s")
    group = made.add_argument_group("job lists", "The options above hold for every job that does not say otherwise.")
    group.add_argument("--jobs", type=Path, metavar="FILE", help="CSV or JSON lines, one job a line")
    add_limits(group)
    return made


def add_options(made: argparse.ArgumentParser) -> None:
    """What says which pictures to make, and where."""
    made.add_argument("workflow", type=Path, nargs="?", help="one of this folder, or one that ComfyUI exported (API)")
    made.add_argument(
        "--server", action="append", metavar="URL",
        help="where ComfyUI listens; http://127.0.0.1:8188. With --jobs it may be given several times",
    )  # fmt: skip
    for option in OPTIONS:
        many: dict[str, Any] = {"action": "append", "default": []} if option.key else {}
        metavar = f"{option.key}={option.value}" if option.key else option.value
        made.add_argument(f"--{option.name}", type=option.parse, metavar=metavar, help=option.help, **many)
    made.add_argument("--answer-limit", type=float, default=60.0, metavar="SECONDS",
                      help="a server that takes longer for an answer counts as gone; %(default)s")  # fmt: skip


def add_limits(group: argparse._ActionsContainer) -> None:
    """How long a list waits for its servers."""
    group.add_argument("--stall-limit", type=float, default=3600.0, metavar="SECONDS",
                       help="a server whose queue does not move for so long counts as gone; %(default)s")  # fmt: skip
    group.add_argument("--wait", type=float, default=120.0, metavar="SECONDS",
                       help="how long to ask again when every server is gone; %(default)s")  # fmt: skip
