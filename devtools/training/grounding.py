"""The grounding loss: a noun's cross-attention belongs on the thing that it names.

In a world this small nothing else makes cross-attention look where a thing is, as it does in large models.
The measure is TokenCompose's (arXiv 2312.03626): one minus the share of a token's attention that falls inside
its thing's mask, squared.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

START = 0  # position of the start token, which belongs on the background


class CrossAttention:
    """Keeps the cross-attention probabilities of one UNet call, as `patches_replace` entries.

    Attributes:
        maps: for each block: (b, n, T) probabilities, mean over heads, with gradients.
    """

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def entries(self, blocks: list[tuple[str, int, int]]) -> dict[str, Any]:
        """The "patches_replace" of transformer_options for the given blocks."""
        return {"attn2": dict.fromkeys(blocks, self)}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        heads = extra_options["n_heads"]
        q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
        probabilities = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        self.maps.append(reduce(probabilities, "b h n t -> b n t", "mean"))
        return rearrange(probabilities @ v, "b h n d -> b n (h d)")


def grounding_loss(maps: list[Tensor], shares: Tensor, nouns: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean over blocks of the loss of nouns, and of the start token on the background.

    Args:
        maps: each (b, n, T), n tokens of a square grid.
        shares: (b, 1 + parts, s, s) which share of each cell is background (0) and each part.
        nouns: rows, positions and parts (as in `shares`) of the k nouns in the captions, each (k,).
    """
    rows, positions, parts = nouns
    losses = []
    for attention in maps:
        side = round(attention.shape[1] ** 0.5)
        inside = F.adaptive_avg_pool2d(shares, side).flatten(2)  # (b, 1 + parts, n)
        # A thing smaller than a cell can still have all of its noun's attention.
        inside = inside / inside.amax(-1, keepdim=True).clamp_min(1e-6)
        of_nouns = _outside(attention[rows, :, positions], inside[rows, parts])
        of_start = _outside(attention[:, :, START], inside[:, 0])
        losses.append(of_nouns + of_start)
    return torch.stack(losses).mean()


def _outside(attention: Tensor, inside: Tensor) -> Tensor:
    """(k, n) and (k, n) -> mean over k of the squared share outside; 0 where k is 0."""
    share = (attention * inside).sum(-1) / attention.sum(-1).clamp_min(1e-6)
    return (1 - share).square().sum() / max(len(share), 1)
