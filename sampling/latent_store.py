"""Results of runs, found again by the latent that a run made."""

import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

_SAMPLES = 4096
# One rounding to bfloat16 changes a number by at most 2^-8 of itself; to float16 by less, down to its smallest step.
_RELATIVE, _ABSOLUTE = 2.0**-8, 1e-6


class HasNbytes(Protocol):
    """What a store holds."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        ...


Result = TypeVar("Result", bound=HasNbytes)


class LatentStore(Generic[Result]):
    """Results of runs by the latents that the runs made, image by image.

    Beyond `max_bytes` the least recently used are dropped, but never the newest.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, tuple[list[Tensor], Result]] = OrderedDict()
        self._next = 0
        self._lock = threading.Lock()

    def add(self, result: Result, latents: list[Tensor]) -> None:
        """Store a run's result under each of the latents (b, ch, H, W) by which it may be looked up."""
        fingerprints = [fingerprint(latent) for latent in latents]
        with self._lock:
            self._entries[self._next] = fingerprints, result
            self._next += 1
            while self.nbytes > self._max_bytes and len(self._entries) > 1:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()

    def find(self, latent: Tensor) -> list[tuple[Result, int]] | None:
        """For each image of a latent (b, ch, H, W) its run's result, and its index in that run's batch.

        None if an image is unknown. Of several runs the one with the nearest latent counts, the newest of equal ones.
        """
        with self._lock:
            found = [self._find_image(image) for image in fingerprint(latent)]
        return [entry for entry in found if entry] if all(found) else None

    def _find_image(self, image: Tensor) -> tuple[Result, int] | None:
        found = [
            (distance, key, index)
            for key, (fingerprints, _) in self._entries.items()
            for known in fingerprints
            for index, distance in _matches(image, known)
        ]
        if not found:
            return None
        _, key, index = min(found, key=lambda match: (match[0], -match[1]))
        self._entries.move_to_end(key)
        return self._entries[key][1], index

    @property
    def nbytes(self) -> int:
        """Size in bytes of all that is held."""
        return sum(result.nbytes + sum(p.nbytes for p in prints) for prints, result in self._entries.values())


def fingerprint(latent: Tensor) -> Tensor:
    """(b, s) float32: the size of each image, followed by evenly spaced values of it."""
    flat = latent.detach().flatten(1).float().cpu()
    chosen = torch.linspace(0, flat.shape[1] - 1, min(_SAMPLES, flat.shape[1])).long()
    size = torch.tensor(latent.shape[1:], dtype=torch.float32).expand(len(flat), -1)
    return torch.cat((size, flat[:, chosen]), dim=1)


def _matches(image: Tensor, known: Tensor) -> list[tuple[int, float]]:
    """Indices in `known` (b, s) of images equal to `image` (s,) but for a change of precision, with their distances."""
    if image.shape != known.shape[1:]:
        return []
    distance = (known - image).abs()
    equal = (distance <= _RELATIVE * known.abs() + _ABSOLUTE).all(dim=1)
    return [(int(index), float(distance[index].sum())) for index in torch.nonzero(equal).flatten()]
