"""Ways to compute references less often: which passes an evaluation uses, and with which shares."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lab.evaluation.refresh import SCHEMES, Scheme, _shares

LEVELS = [14.6 * math.exp(-0.35 * number) for number in range(17)]


class Sampling:
    """A model sampling with log-linear noise levels."""

    sigma_max, sigma_min = torch.tensor(LEVELS[0]), torch.tensor(LEVELS[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        """From 0 to 999."""
        return (sigma.log() - self.sigma_min.log()) / (self.sigma_max.log() - self.sigma_min.log()) * 999

    def sigma(self, timestep: Tensor) -> Tensor:
        """The noise level of a timestep."""
        return (timestep / 999 * (self.sigma_max.log() - self.sigma_min.log()) + self.sigma_min.log()).exp()


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_shares_add_up_and_passes_are_few(scheme: Scheme) -> None:
    visited: list[float] = []
    used = [_shares(scheme, Sampling(), sigma, visited) for sigma in LEVELS]
    assert all(sum(shares.values()) == pytest.approx(1) for shares in used)
    passes = {level for shares in used for level in shares}
    expected = scheme.parts + (scheme.between == "line") if scheme.parts else len(LEVELS)
    if scheme.every:
        expected = -(-len(LEVELS) // scheme.every)
    assert len(passes) <= expected


def test_a_line_gives_what_is_linear_exactly() -> None:
    visited: list[float] = []
    scheme = Scheme("", 5, "log sigma", between="line")
    for sigma in LEVELS:
        shares = _shares(scheme, Sampling(), sigma, visited)
        assert sum(share * math.log(level) for level, share in shares.items()) == pytest.approx(math.log(sigma))
