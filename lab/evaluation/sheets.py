"""Contact sheets of the evaluation's pictures, which are drawings, tensors and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from devtools.contact_sheet import Entry, contact_sheet, dim, save_small

from ..finishes import Style
from .combinations import Combination, Concept

if TYPE_CHECKING:
    from .studio import Made


def as_tensor(drawing: NDArray[np.uint8]) -> Tensor:
    """A drawing (h, w, 3) as a picture (h, w, 3), float32 in 0..1."""
    return torch.from_numpy(drawing.astype(np.float32) / 255)


def as_image(picture: Tensor) -> Image.Image:
    """A picture (h, w, 3) in 0..1 as an image."""
    return Image.fromarray((picture * 255).byte().numpy())


def reference(concept: Concept, text: str = "") -> Entry:
    """A concept's first view, faded outside its mask."""
    portrait = concept.views[0].portrait
    shown = dim(Image.fromarray(portrait.picture), Image.fromarray(portrait.masks[concept.part]))
    return Entry(shown, text or concept.part)


def save_rows(wanted: Combination, made: Mapping[str, Made], file: Path) -> None:
    """Save the references of a combination and, below them, the picture of each row."""
    entries = [Entry(as_image(its.picture), name) for name, its in made.items()]
    rows = [entries[first : first + 8] for first in range(0, len(entries), 8)]
    contact_sheet([[reference(concept) for concept in wanted.concepts], *rows]).save(file)


def save_styles(in_styles: Sequence[Combination], made: Mapping[tuple[Style, Style], Made], file: Path) -> None:
    """Save a combination in several styles: a row for each style of the references, which come first in it.

    Args:
        in_styles: the combination with references and prompt in each style.
        made: the pictures by the references' and the prompt's style.
        file: to save to.
    """
    rows = []
    for seen in in_styles:
        references = [reference(concept) for concept in seen.concepts]
        rows.append(
            [*references, *(Entry(as_image(made[seen.style, asked.style].picture), asked.style) for asked in in_styles)]
        )
    contact_sheet(rows).save(file)


def save_joined(sheets: Sequence[Path], file: Path) -> None:
    """Save several contact sheets as one picture, one below the other."""
    opened = [Image.open(sheet) for sheet in sheets]
    joined = Image.new("RGB", (max(one.width for one in opened), sum(one.height for one in opened)), "white")
    top = 0
    for one in opened:
        joined.paste(one, ((joined.width - one.width) // 2, top))
        top += one.height
    save_small(joined, file, 1240)
