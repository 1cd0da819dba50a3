"""The drawings for training. They are drawn once and stored in the cache folder."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from devtools import cache

from .. import finishes, portrait_drawing, portrait_shapes, portraits, style_words
from ..judge import PARTS
from ..portraits import PATTERNS, STYLES, Portrait, Split, caption_of, draw_portrait, generator_of

CHUNK = 256  # drawings in a file
CAPTIONS = 6  # of each drawing; those with an even index name looks
SOURCES = [
    Path(str(module.__file__)) for module in (finishes, portrait_drawing, portrait_shapes, portraits, style_words)
]
_CAPTION_SEEDS = 1 << 32


@dataclass(frozen=True, eq=False)
class Drawings:
    """A set of drawings; number n has style n modulo the number of `STYLES`.

    Attributes:
        pictures: (n, 256, 256, 3) uint8.
        labels: (n, 256, 256) uint8: 0 is background, l > 0 is part l - 1 of `PARTS`.
        patterns: (n, parts) uint8, index in `PATTERNS` of each part's pattern; 0 for an absent part.
        styles: (n,) uint8, index in `STYLES`.
        captions: `CAPTIONS` of each; those with an even index name looks.
    """

    pictures: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    patterns: NDArray[np.uint8]
    styles: NDArray[np.uint8]
    captions: list[list[str]]


def labels_of(portrait: Portrait) -> NDArray[np.uint8]:
    """(size, size) uint8: the label of each pixel; see `Drawings`."""
    labels = np.zeros(portrait.picture.shape[:2], np.uint8)
    for part, mask in portrait.masks.items():
        labels[mask] = PARTS.index(part) + 1
    return labels


def folder() -> Path:
    """The folder of the drawings, which is another one for each version of the generator."""
    sources = b"".join(path.read_bytes() for path in SOURCES)
    return cache.root() / "training" / f"drawings-{hashlib.sha256(sources).hexdigest()[:16]}"


def drawings(split: Split, chunk: int) -> Drawings:
    """The CHUNK drawings of a split from number chunk * CHUNK on; from the cache if they were drawn before."""
    if not _file(split, chunk).is_file():
        _draw(split, chunk)
    with np.load(_file(split, chunk)) as stored:
        captions = [str(line).split("\n") for line in stored["captions"]]
        return Drawings(stored["pictures"], stored["labels"], stored["patterns"], stored["styles"], captions)


def draw_ahead(wanted: Sequence[tuple[Split, int]]) -> None:
    """Draw those of the given chunks that are missing, on all cores."""
    missing = [one for one in wanted if not _file(*one).is_file()]
    if not missing:
        return
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        drawn = pool.map(_draw, *zip(*missing, strict=True))
        for _ in tqdm(drawn, desc="drawings", total=len(wanted), initial=len(wanted) - len(missing), file=sys.stdout):
            pass


def _pattern(portrait: Portrait, part: str) -> int:
    return PATTERNS.index(portrait.looks[part].pattern) if part in portrait.looks else 0


def _file(split: Split, chunk: int) -> Path:
    return folder() / f"{split}-{chunk:04d}.npz"


def _draw(split: Split, chunk: int) -> None:
    path = _file(split, chunk)
    pictures, labels, patterns, styles, captions = [], [], [], [], []
    for number in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        style = number % len(STYLES)
        portrait = draw_portrait(split, number, style=STYLES[style])
        rng = generator_of(split, _CAPTION_SEEDS + number)
        pictures.append(portrait.picture)
        labels.append(labels_of(portrait))
        patterns.append([_pattern(portrait, part) for part in PARTS])
        styles.append(style)
        captions.append("\n".join(caption_of(portrait, rng, with_looks=index % 2 == 0) for index in range(CAPTIONS)))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(
        unfinished,
        pictures=np.stack(pictures),
        labels=np.stack(labels),
        patterns=np.array(patterns, np.uint8),
        styles=np.array(styles, np.uint8),
        captions=np.array(captions),
    )
    unfinished.replace(path)
