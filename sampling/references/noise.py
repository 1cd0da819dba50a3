"""The references' noise: a function of seed, reference and noise level only (docs/method.md#reference-pass)."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class NoiseSource(Protocol):
    """Where the references' noise comes from."""

    def __call__(self, name: str, sigma: float, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise of `shape`, float32 in main memory, for the reference called `name` at sigma."""
        ...


@dataclass(frozen=True)
class SeededNoise:
    """The same noise for every sampler, sampler seed, repeat and device.

    Sigma is rounded to six digits, so that a device's last bit does not change the noise.
    """

    seed: int

    def __call__(self, name: str, sigma: float, shape: tuple[int, ...]) -> Tensor:
        digest = hashlib.sha256(f"{self.seed}|{name}|{sigma:.5e}".encode()).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little"))
        return torch.randn(shape, generator=generator)
