"""Random queries, keys and references that several test files want alike."""

from __future__ import annotations

import torch
from magicface.attention.kv import ConceptTokens, pool
from magicface.attention.masks import weighted_mask
from naive import View
from torch import Tensor


def generator_of(seed: int) -> torch.Generator:
    """Random numbers of a test's own."""
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
    """A view of `size` tokens with weight and mask; its keys are as large as those of a sharp attention."""
    weight = float(torch.rand(1, generator=generator)) * 5 - 1
    k, v = 1.5 * normal(generator, size, channels), normal(generator, size, channels)
    return View(k, v, some_mask(generator, size), weight)


def as_concept(views: list[View], dtype: torch.dtype = torch.float64) -> ConceptTokens | None:
    """The views of one concept as attention/ keeps them."""
    kept_views = []
    for view in views:
        kept, bias = weighted_mask(view.mask, view.weight)
        k, v = view.k[None, kept].to(dtype), view.v[None, kept].to(dtype)
        kept_views.append(ConceptTokens(k, v, bias, (kept,), ((1, len(view.mask)),)))
    return pool(kept_views)
