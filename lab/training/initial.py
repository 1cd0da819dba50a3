"""Initial weights for training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from devtools.tiny_pack.random_weights import random_weights


def initial_weights(module: nn.Module, seed: str, gains: Mapping[str, float]) -> dict[str, Tensor]:
    """Random weights that preserve the variance of a unit input; biases are 0, norms have no effect.

    Args:
        module: the module; it is only read.
        seed: any text; equal texts give equal weights.
        gains: suffix of a layer's name -> factor on its weight.

    Returns:
        A float32 state dict for `module`.
    """
    weights = random_weights(module, seed, gains)
    for name, weight in weights.items():
        if name.endswith(".bias"):
            weights[name] = torch.zeros_like(weight)
        elif weight.ndim == 1:
            weights[name] = torch.ones_like(weight)
    return weights
