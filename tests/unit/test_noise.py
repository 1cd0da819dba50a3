"""The references' noise."""

from __future__ import annotations

import random

import pytest
import torch
from magicface.sampling.references.noise import SeededNoise

SHAPE = (1, 4, 8, 8)


def test_same_for_the_same_and_standard_normal() -> None:
    noise = SeededNoise(3)("hat", 1.5, SHAPE)
    assert noise.dtype is torch.float32 and noise.device.type == "cpu" and noise.shape == SHAPE
    torch.randn(10)
    assert torch.equal(SeededNoise(3)("hat", 1.5, SHAPE), noise)
    many = SeededNoise(3)("hat", 1.5, (1, 4, 100, 100))
    assert float(many.mean()) == pytest.approx(0, abs=0.02) and float(many.std()) == pytest.approx(1, abs=0.02)


def test_known_numbers() -> None:
    """Pictures made again with a later version of the pack have to be the same."""
    found = SeededNoise(0)("hat|a hat|0|0", 14.6146, (4,)).tolist()
    assert found == pytest.approx([-0.298096, -0.495039, -0.590768, -0.369006], abs=1e-5)


@pytest.mark.parametrize(
    ("seed", "name", "sigma"),
    [(4, "hat", 1.5), (3, "hair", 1.5), (3, "hat", 1.6), (3, "hat|0", 1.5), (-3, "hat", 1.5), (3, "hat", 15.0)],
)
def test_other_for_any_other(seed: int, name: str, sigma: float) -> None:
    noise, other = SeededNoise(3)("hat", 1.5, SHAPE), SeededNoise(seed)(name, sigma, SHAPE)
    correlation = float(torch.corrcoef(torch.stack((noise.flatten(), other.flatten())))[0, 1])
    assert abs(correlation) < 0.3


def test_parts_of_the_name_do_not_run_together() -> None:
    assert not torch.equal(SeededNoise(1)("1|hat", 2.0, SHAPE), SeededNoise(11)("hat", 2.0, SHAPE))


@pytest.mark.parametrize("seed", [0, 2**64 - 1, 2**70])
def test_any_seed_will_do(seed: int) -> None:
    assert torch.isfinite(SeededNoise(seed)("hat", 1.0, SHAPE)).all()


@pytest.mark.parametrize("sigma", [14.6146, 0.0291675, 123456.0, 1e-5])
def test_sigma_counts_to_its_sixth_digit(sigma: float) -> None:
    """The last bit of a device's single precision must not matter, and the next step of a schedule must."""
    noise = SeededNoise(3)("hat", sigma, SHAPE)
    assert torch.equal(SeededNoise(3)("hat", sigma * (1 + 1e-8), SHAPE), noise)
    assert torch.equal(SeededNoise(3)("hat", float(torch.tensor(sigma)), SHAPE), noise)
    assert not torch.equal(SeededNoise(3)("hat", sigma * (1 + 2e-5), SHAPE), noise)


def test_global_random_numbers_are_left_alone() -> None:
    torch.manual_seed(7)
    random.seed(7)
    before, before_python = torch.random.get_rng_state(), random.getstate()
    SeededNoise(3)("hat", 1.5, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), before) and random.getstate() == before_python


def test_seeds_are_values() -> None:
    """Equal settings are equal sources, so that methods can be compared and cached."""
    assert SeededNoise(3) == SeededNoise(3) != SeededNoise(4)
    assert hash(SeededNoise(3)) == hash(SeededNoise(3))
