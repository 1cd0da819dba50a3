"""Grounding losses: attention belongs on the thing, as it lies in large models without asking.

Cross-attention of a noun falls on what it names, and self-attention of a pixel on the thing that it is part of. In a
world this small nothing else makes attention do so, and the method reads both. The measure is TokenCompose's (arXiv
2312.03626): one minus the share of the attention that falls inside, squared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

START = 0  # position of the start token, which belongs on the background
Block = tuple[str, int, int]


class KeptAttention:
    """Keeps the attention probabilities of some blocks in one UNet call, as a `patches_replace` entry.

    Attributes:
        maps: for each block: (b, n, m) probabilities, mean over heads, with gradients.
    """

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def entries(self, blocks: Iterable[Block]) -> dict[Block, Any]:
        """What stands at "attn1" or "attn2" in the "patches_replace" of transformer_options."""
        return dict.fromkeys(blocks, self)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        heads = extra_options["n_heads"]
        q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
        probabilities = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        self.maps.append(reduce(probabilities, "b h n m -> b n m", "mean"))
        return rearrange(probabilities @ v, "b h n d -> b n (h d)")


def noun_loss(maps: list[Tensor], shares: Tensor, nouns: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Cross-attention: nouns on their things, and the start token on the background; mean over blocks.

    Args:
        maps: each (b, n, T), n tokens of a square grid.
        shares: (b, 1 + parts, s, s) which share of each cell is background (0) and each part.
        nouns: rows, positions and parts (as in `shares`) of the k nouns in the captions, each (k,).
    """
    rows, positions, parts = nouns
    losses = []
    for attention in maps:
        inside = _at(shares, attention)
        # A thing smaller than a cell can still have all of its noun's attention.
        inside = inside / inside.amax(-1, keepdim=True).clamp_min(1e-6)
        of_nouns = _outside(attention[rows, :, positions], inside[rows, parts])
        of_start = _outside(attention[:, :, START], inside[:, 0])
        losses.append(of_nouns.sum() / max(len(rows), 1) + of_start.mean())
    return torch.stack(losses).mean()


def thing_loss(maps: list[Tensor], shares: Tensor, signal: Tensor) -> Tensor:
    """Self-attention: each pixel on its own thing, the background being one too; mean over blocks and pixels.

    Args:
        maps: each (b, n, n), n tokens of a square grid.
        shares: as for `noun_loss`.
        signal: (b,) in 0..1, how much of a picture is left in the noise: things that cannot be seen bind nobody.
    """
    losses = []
    for attention in maps:
        inside = _at(shares, attention)
        alike = torch.einsum("b p i, b p j -> b i j", inside, inside)
        alike = alike / alike.amax(-1, keepdim=True).clamp_min(1e-6)
        losses.append((_outside(attention, alike).mean(-1) * signal).mean())
    return torch.stack(losses).mean()


def _at(shares: Tensor, attention: Tensor) -> Tensor:
    """(b, 1 + parts, n): the shares on a block's grid."""
    return F.adaptive_avg_pool2d(shares, round(attention.shape[1] ** 0.5)).flatten(2)


def _outside(attention: Tensor, inside: Tensor) -> Tensor:
    """(..., n) and (..., n) -> (...): the squared share of the attention that is outside."""
    share = (attention * inside).sum(-1) / attention.sum(-1).clamp_min(1e-6)
    return (1 - share).square()
