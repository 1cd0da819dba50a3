"""Grounding losses: they train attention to fall on the right part, which it does in large models by itself.

The cross-attention of a noun is to fall on the part that it names, and the self-attention of a pixel on the part that
it belongs to. The method reads both, and in a world this small nothing else teaches them. The loss is that of
TokenCompose (arXiv 2312.03626): one minus the share of the attention inside the mask, squared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

START = 0  # position of the start token, whose attention is to fall on the background
Block = tuple[str, int, int]


class RecordedAttention:
    """A `patches_replace` entry that records the attention probabilities of some blocks in a UNet call.

    Attributes:
        maps: for each block, (b, n, m) probabilities: the mean over heads, with gradients.
    """

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def entries(self, blocks: Iterable[Block]) -> dict[Block, Any]:
        """The value for "attn1" or "attn2" in "patches_replace" of transformer_options."""
        return dict.fromkeys(blocks, self)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        heads = extra_options["n_heads"]
        q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
        probabilities = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        self.maps.append(reduce(probabilities, "b h n m -> b n m", "mean"))
        return rearrange(probabilities @ v, "b h n d -> b n (h d)")


def noun_loss(maps: list[Tensor], shares: Tensor, nouns: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Loss of cross-attention: nouns on their parts, the start token on the background; mean over blocks.

    Args:
        maps: each (b, n, T), n tokens of a square grid.
        shares: (b, 1 + parts, s, s) share of each cell that is background (0) or a part.
        nouns: rows, positions and parts (as in `shares`) of the k nouns in the captions, (k,) each.
    """
    rows, positions, parts = nouns
    losses = []
    for attention in maps:
        inside = _at(shares, attention)
        # A part that is smaller than a cell can still have all attention of its noun.
        inside = inside / inside.amax(-1, keepdim=True).clamp_min(1e-6)
        of_nouns = _outside(attention[rows, :, positions], inside[rows, parts])
        of_start = _outside(attention[:, :, START], inside[:, 0])
        losses.append(of_nouns.sum() / max(len(rows), 1) + of_start.mean())
    return torch.stack(losses).mean()


def thing_loss(maps: list[Tensor], shares: Tensor, signal: Tensor) -> Tensor:
    """Loss of self-attention: each pixel on its own part or on the background; mean over blocks and pixels.

    Args:
        maps: each (b, n, n), n tokens of a square grid.
        shares: as for `noun_loss`.
        signal: (b,) in 0..1, how much of the picture is visible in the noise; it weights the loss.
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
    """(...) the squared share of attention (..., n) that falls outside a mask (..., n)."""
    share = (attention * inside).sum(-1) / attention.sum(-1).clamp_min(1e-6)
    return (1 - share).square()
