"""What can be measured of a trial's pictures without a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .grid import Variant

Mask = NDArray[np.bool_]  # (H, W)
FOUND = 0.002  # a region with a smaller share of the picture does not count as found


@dataclass(frozen=True, eq=False)
class Run:
    """A picture and what is known of it.

    Attributes:
        variant, seed: how it was made.
        picture: the file; None if the job failed.
        regions: of each concept; none if there are none, as without MagicFace.
        words: by concept, the mask that its word finds in the picture.
        seconds: the whole job on the server; None if it failed.
        memory_mb: the most that was seen; None if it was not measured.
        findings: what MagicFace did less than it was asked for.
        error: why it failed.
    """

    variant: Variant
    seed: int
    picture: Path | None = None
    regions: Mapping[str, Mask] = field(default_factory=dict)
    words: Mapping[str, Mask] = field(default_factory=dict)
    seconds: float | None = None
    memory_mb: int | None = None
    findings: Sequence[str] = ()
    error: str | None = None

    @property
    def shares(self) -> dict[str, float]:
        """The part of the picture that each concept's region covers, 0..1."""
        return {word: share(mask) for word, mask in self.regions.items()}

    @property
    def agreement(self) -> dict[str, float]:
        """The overlap of each concept's region with the mask that its word finds in the finished picture, 0..1."""
        return {word: overlap(mask, self.words[word]) for word, mask in self.regions.items() if word in self.words}

    @property
    def found(self) -> list[str]:
        """The concepts that have a region."""
        return [word for word, part in self.shares.items() if part >= FOUND]


def read_masks(files: Sequence[Path], words: Sequence[str]) -> dict[str, Mask]:
    """The masks of some words, in the same order; none if a node could not make them all."""
    if len(files) != len(words):
        return {}
    return {word: read_mask(file) for word, file in zip(words, files, strict=True)}


def read_mask(file: Path, size: tuple[int, int] | None = None) -> Mask:
    """A mask, white where something is; scaled if a (width, height) is given."""
    with Image.open(file) as opened:
        grey = opened.convert("L")
        return np.asarray(grey.resize(size) if size else grey) > 127


def share(mask: Mask) -> float:
    """The part of a mask that is set, 0..1."""
    return float(mask.mean())


def overlap(one: Mask, other: Mask) -> float:
    """Intersection over union of two masks of a size, 0..1; 0 for two empty ones."""
    return float((one & other).sum() / max(1, int((one | other).sum())))
