"""What runs found, kept small and in main memory, and found again by the latent that a run made."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

_MOST_BYTES = 64 * 2**20
_SAMPLES = 4096
# One rounding to bfloat16 moves a number by at most 2^-8 of itself; to float16 by less, down to its smallest step.
_RELATIVE, _ABSOLUTE = 2.0**-8, 1e-6


@dataclass(frozen=True, eq=False)
class StepRegions:
    """The regions at the end of one sampler step.

    Attributes:
        step: its number, from 0.
        concepts: (b, H2, W2) concept indices or -1.
        foreground: (b, H2, W2) bool.
    """

    step: int
    concepts: Tensor
    foreground: Tensor

    def compact(self) -> StepRegions:
        """The same in a byte a pixel, sharing no memory with the run."""
        return StepRegions(self.step, self.concepts.to(torch.int8), self.foreground.clone())


@dataclass(eq=False)
class Recording:
    """The regions of one run.

    Attributes:
        concepts: the concepts' phrases; a concept's index is its place.
        steps: those of its steps that have regions, in order.
    """

    concepts: tuple[str, ...]
    steps: list[StepRegions] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes that the maps take."""
        return sum(s.concepts.nbytes + s.foreground.nbytes for s in self.steps)


class Keepable(Protocol):
    """What a store holds."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        ...


Kept = TypeVar("Kept", bound=Keepable)


class LatentStore(Generic[Kept]):
    """What runs left, by the latents they made, image by image; the least recently used go first.

    Args:
        most_bytes: what all of it and the fingerprints may take together; the latest stays in any case.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._entries: OrderedDict[int, tuple[list[Tensor], Kept]] = OrderedDict()
        self._next = 0
        self._lock = threading.Lock()

    def add(self, left: Kept, latents: list[Tensor]) -> None:
        """Keep what a run left under each of the latents (b, ch, H, W) by which it may be asked for."""
        prints = [fingerprint(latent) for latent in latents]
        with self._lock:
            self._entries[self._next] = prints, left
            self._next += 1
            while self.nbytes > self._most_bytes and len(self._entries) > 1:
                self._entries.popitem(last=False)

    def find(self, latent: Tensor) -> list[tuple[Kept, int]] | None:
        """For each image of a latent (b, ch, H, W) what its run left, and its place in that run's batch.

        None where an image is unknown. Of runs that made the same image the latest is meant.
        """
        with self._lock:
            found = [self._find_image(image) for image in fingerprint(latent)]
        return [entry for entry in found if entry] if all(found) else None

    def _find_image(self, image: Tensor) -> tuple[Kept, int] | None:
        nearest: tuple[float, int, int] | None = None
        for key in sorted(self._entries, reverse=True):
            for known in self._entries[key][0]:
                for place, distance in _matches(image, known):
                    if nearest is None or distance < nearest[0]:
                        nearest = distance, key, place
        if nearest is None:
            return None
        self._entries.move_to_end(nearest[1])
        return self._entries[nearest[1]][1], nearest[2]

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(left.nbytes + sum(p.nbytes for p in prints) for prints, left in self._entries.values())


def fingerprint(latent: Tensor) -> Tensor:
    """(b, s) float32: evenly chosen values of each image, the image's size before them."""
    flat = latent.detach().flatten(1).float().cpu()
    chosen = torch.linspace(0, flat.shape[1] - 1, min(_SAMPLES, flat.shape[1])).long()
    size = torch.tensor(latent.shape[1:], dtype=torch.float32).expand(len(flat), -1)
    return torch.cat((size, flat[:, chosen]), dim=1)


def _matches(image: Tensor, known: Tensor) -> list[tuple[int, float]]:
    """Places in `known` (b, s) of images equal to `image` (s,) but for a change of precision, with their distances."""
    if image.shape != known.shape[1:]:
        return []
    distance = (known - image).abs()
    alike = (distance <= _RELATIVE * known.abs() + _ABSOLUTE).all(dim=1)
    return [(int(place), float(distance[place].sum())) for place in torch.nonzero(alike).flatten()]


STORE: LatentStore[Recording] = LatentStore(_MOST_BYTES)
"""Where regions outlive a run, for the preview node."""
