"""The drawings that training sees, drawn once and kept in the cache folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devtools import cache

from .. import portrait_drawing, portraits
from ..judge import PARTS
from ..portraits import PATTERNS, Portrait, Split, caption_of, draw_portrait, generator_of

CHUNK = 256  # drawings in a file
CAPTIONS = 6  # of each drawing: the even ones tell looks
_CAPTION_SEEDS = 1 << 32


@dataclass(frozen=True, eq=False)
class Drawings:
    """Some drawings.

    Attributes:
        pictures: (n, 256, 256, 3) uint8.
        labels: (n, 256, 256) uint8: 0 is background, l > 0 is part l - 1 of `PARTS`.
        patterns: (n, parts) uint8, index in `PATTERNS` of what each part is filled with; 0 of what is not there.
        captions: `CAPTIONS` of each; those with an even index tell looks.
    """

    pictures: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    patterns: NDArray[np.uint8]
    captions: list[list[str]]


def labels_of(portrait: Portrait) -> NDArray[np.uint8]:
    """(size, size) which part each pixel belongs to; see `Drawings`."""
    labels = np.zeros(portrait.picture.shape[:2], np.uint8)
    for part, mask in portrait.masks.items():
        labels[mask] = PARTS.index(part) + 1
    return labels


def folder() -> Path:
    """Where the drawings are kept; another one for each version of the generator."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (portraits, portrait_drawing)]
    return cache.root() / "training" / f"drawings-{hashlib.sha256(b''.join(sources)).hexdigest()[:16]}"


def drawings(split: Split, chunk: int) -> Drawings:
    """Drawings chunk * CHUNK and the next ones of a split; from the cache where they were drawn before."""
    if not _file(split, chunk).is_file():
        _draw(split, chunk)
    with np.load(_file(split, chunk)) as kept:
        captions = [str(line).split("\n") for line in kept["captions"]]
        return Drawings(kept["pictures"], kept["labels"], kept["patterns"], captions)


def draw_ahead(wanted: Sequence[tuple[Split, int]]) -> Iterator[int]:
    """Draw what is missing of some files, on all cores; yields how many are there."""
    missing = [one for one in wanted if not _file(*one).is_file()]
    done = len(wanted) - len(missing)
    yield done
    if not missing:
        return
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for _ in pool.map(_draw, *zip(*missing, strict=True)):
            done += 1
            yield done


def _pattern(portrait: Portrait, part: str) -> int:
    return PATTERNS.index(portrait.looks[part].pattern) if part in portrait.looks else 0


def _file(split: Split, chunk: int) -> Path:
    return folder() / f"{split}-{chunk:04d}.npz"


def _draw(split: Split, chunk: int) -> None:
    path = _file(split, chunk)
    pictures, labels, patterns, captions = [], [], [], []
    for number in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        portrait = draw_portrait(split, number)
        rng = generator_of(split, _CAPTION_SEEDS + number)
        pictures.append(portrait.picture)
        labels.append(labels_of(portrait))
        patterns.append([_pattern(portrait, part) for part in PARTS])
        captions.append("\n".join(caption_of(portrait, rng, with_looks=index % 2 == 0) for index in range(CAPTIONS)))
    path.parent.mkdir(parents=True, exist_ok=True)
    half_made = path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(
        half_made,
        pictures=np.stack(pictures),
        labels=np.stack(labels),
        patterns=np.array(patterns, np.uint8),
        captions=np.array(captions),
    )
    half_made.replace(path)
