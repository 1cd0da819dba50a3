"""Random queries, keys and references that several test files use."""

from __future__ import annotations

import torch
from magicface.attention.kv import ConceptKV, ViewKV, pool
from magicface.attention.masks import TokenMask, token_mask
from oracle.attention import View
from torch import Tensor


def generator_of(seed: int) -> torch.Generator:
    """A random generator with this seed."""
    return torch.Generator().manual_seed(seed)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers in double precision."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def some_mask(generator: torch.Generator, size: int) -> Tensor:
    """A mask (size,) with empty, full and fractional tokens, at least one of them not empty."""
    kind = torch.randint(0, 3, (size,), generator=generator)
    mask = torch.where(kind == 0, 0.0, torch.where(kind == 1, 1.0, torch.rand(size, generator=generator) * 0.9 + 0.05))
    mask[int(torch.randint(0, size, (1,), generator=generator))] = 0.4
    return mask


def some_view(generator: torch.Generator, size: int, channels: int) -> View:
    """A view of `size` tokens with weight and mask; its keys are large enough for sharp attention."""
    weight = float(torch.rand(1, generator=generator)) * 5 - 1
    k, v = 1.5 * normal(generator, size, channels), normal(generator, size, channels)
    return View(k, v, some_mask(generator, size), weight)


def as_view(view: View, dtype: torch.dtype = torch.float64) -> tuple[ViewKV, TokenMask, float]:
    """A view as an input of `pool`, on a grid one token high."""
    mask = token_mask(view.mask[None], (1, len(view.mask)), "nearest")
    k, v = view.k[None, mask.indices].to(dtype), view.v[None, mask.indices].to(dtype)
    return ViewKV(k, v, mask.grid), mask, view.weight


def as_concept(views: list[View], dtype: torch.dtype = torch.float64) -> ConceptKV | None:
    """The views of one concept as a ConceptKV."""
    return pool([as_view(view, dtype) for view in views])
