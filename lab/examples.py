"""The example pictures and masks of the shipped workflows, drawn by the laboratory; `dev.py docs` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from devtools.demo import PICTURES

from .portraits import Look, draw_portrait

START = "start"  # the picture that image-to-image begins with, which has no mask


@dataclass(frozen=True)
class Example:
    """A drawing of the "reference" split.

    Attributes:
        number: in the split.
        worn: what the figure wears.
        looks: of some parts.
    """

    number: int
    worn: Sequence[str] = ("hat", "scarf")
    looks: Mapping[str, Look] = field(default_factory=dict)


EXAMPLES = {
    "face": Example(7413, looks={"face": Look("dark")}),
    "hat": Example(7105, looks={"hat": Look("red", "striped", "white")}),
    "scarf": Example(7200, looks={"scarf": Look("blue", "dotted", "yellow")}),
    START: Example(7425, worn=()),
}


def files() -> dict[Path, Image.Image]:
    """The pictures of all examples, and the masks of their parts, by file."""
    found = {}
    for name, example in EXAMPLES.items():
        portrait = draw_portrait("reference", example.number, example.worn, looks=example.looks, style="flat")
        found[PICTURES / f"magicface_portrait_{name}.png"] = Image.fromarray(portrait.picture)
        if name != START:
            mask = portrait.masks[name].astype(np.uint8) * 255
            found[PICTURES / f"magicface_portrait_{name}_mask.png"] = Image.fromarray(mask)
    return found


def same(file: Path, picture: Image.Image) -> bool:
    """Whether a file has this picture."""
    if not file.is_file():
        return False
    with Image.open(file) as written:
        return written.size == picture.size and np.array_equal(np.asarray(written), np.asarray(picture))
