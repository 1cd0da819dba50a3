"""The references' noise."""

from __future__ import annotations

import random

import pytest
import torch
from magicface.sampling.references.noise import SeededNoise

SHAPE = (1, 4, 8, 8)


def test_noise_is_repeatable_and_standard_normal() -> None:
    noise = SeededNoise(3)("hat", 1.5, SHAPE)
    assert noise.dtype is torch.float32 and noise.device.type == "cpu" and noise.shape == SHAPE
    torch.randn(10)
    assert torch.equal(SeededNoise(3)("hat", 1.5, SHAPE), noise)
    many = SeededNoise(3)("hat", 1.5, (1, 4, 100, 100))
    assert float(many.mean()) == pytest.approx(0, abs=0.02) and float(many.std()) == pytest.approx(1, abs=0.02)


def test_noise_has_known_values() -> None:
    """Later versions of the pack must make the same pictures."""
    found = SeededNoise(0)("hat|a hat|0|0", 14.6146, (4,)).tolist()
    assert found == pytest.approx([-0.298096, -0.495039, -0.590768, -0.369006], abs=1e-5)


@pytest.mark.parametrize(
    ("seed", "name", "sigma"),
    [(4, "hat", 1.5), (3, "hair", 1.5), (3, "hat", 1.6), (3, "hat|0", 1.5), (-3, "hat", 1.5), (3, "hat", 15.0)],
)
def test_noise_depends_on_seed_name_and_sigma(seed: int, name: str, sigma: float) -> None:
    noise, other = SeededNoise(3)("hat", 1.5, SHAPE), SeededNoise(seed)(name, sigma, SHAPE)
    correlation = float(torch.corrcoef(torch.stack((noise.flatten(), other.flatten())))[0, 1])
    assert abs(correlation) < 0.3


def test_parts_of_the_name_are_separated() -> None:
    assert not torch.equal(SeededNoise(1)("1|hat", 2.0, SHAPE), SeededNoise(11)("hat", 2.0, SHAPE))


@pytest.mark.parametrize("seed", [0, 2**64 - 1, 2**70])
def test_any_integer_is_a_valid_seed(seed: int) -> None:
    assert torch.isfinite(SeededNoise(seed)("hat", 1.0, SHAPE)).all()


@pytest.mark.parametrize("sigma", [14.6146, 0.0291675, 123456.0, 1e-5])
def test_sigma_is_rounded_to_six_digits(sigma: float) -> None:
    """Sigmas that differ by float32 rounding give the same noise, and those of different steps give other noise."""
    noise = SeededNoise(3)("hat", sigma, SHAPE)
    assert torch.equal(SeededNoise(3)("hat", sigma * (1 + 1e-8), SHAPE), noise)
    assert torch.equal(SeededNoise(3)("hat", float(torch.tensor(sigma)), SHAPE), noise)
    assert not torch.equal(SeededNoise(3)("hat", sigma * (1 + 2e-5), SHAPE), noise)


def test_the_global_random_state_does_not_change() -> None:
    torch.manual_seed(7)
    random.seed(7)
    before, before_python = torch.random.get_rng_state(), random.getstate()
    SeededNoise(3)("hat", 1.5, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), before) and random.getstate() == before_python


def test_sources_with_equal_seeds_are_equal() -> None:
    """Sources with equal settings are equal, so that methods can be compared and cached."""
    assert SeededNoise(3) == SeededNoise(3) != SeededNoise(4)
    assert hash(SeededNoise(3)) == hash(SeededNoise(3))
