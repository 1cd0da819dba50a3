"""Attention-based segmentation: which pixels belong to which word (docs/method.md#segmentation).

No n x n map is ever computed: to multiply token maps X by the head-averaged self-attention S is attention with X as
the values, averaged over heads; and S S C = S (S C) (docs/method.md#exact-savings).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .attend import Attend
from .device import to_device
from .regions import NO_CONCEPT, NO_LABEL, Regions

EPS = 1e-8


def cross_attention_map(q: Tensor, k: Tensor, heads: int, length: int) -> Tensor:
    """C: attn2's probabilities, averaged over heads.

    Args:
        q: (b, n, c) queries.
        k: (b, T', c) keys of the text; T' is a multiple of `length` where the host repeated a shorter prompt.
        heads: h.
        length: T, the prompt's own length; repeated columns are summed.

    Returns:
        (b, n, T) float32, each row summing to 1.
    """
    q_heads, k_heads = (rearrange(x, "b n (h d) -> b h n d", h=heads).float() for x in (q, k))
    scale = 1.0 / math.sqrt(q_heads.shape[-1])
    of_images = []
    for q_image, k_image in zip(q_heads, k_heads, strict=True):
        probabilities = (q_image * scale @ k_image.transpose(-1, -2)).softmax(dim=-1)
        of_images.append(reduce(probabilities, "h n (tile t) -> n t", "sum", t=length) / heads)
    return torch.stack(of_images)


def apply_self_attention(maps: Tensor, q: Tensor, k: Tensor, attend: Attend) -> Tensor:
    """S X: smooth token maps along the image by the block's own self-attention.

    Args:
        maps: (b, n, t) float32 X.
        q, k: (b, n, c) attn1's queries and own keys.
        attend: the attention function; its values are as wide as the head size.

    Returns:
        (b, n, t) float32.
    """
    heads, t = attend.heads, maps.shape[-1]
    width = q.shape[-1] // heads
    # Columns are scaled to a mean of 1 before attention, so that half precision does not lose faint tokens.
    level = maps.mean(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    columns = pad(maps / level, (0, -t % width)).to(q.dtype)
    smoothed = [
        reduce(attend(q, k, part.repeat(1, 1, heads)), "b n (h d) -> b n d", "mean", h=heads)
        for part in columns.split(width, dim=-1)
    ]
    return torch.cat(smoothed, dim=-1)[..., :t].float() * level


def power_average(maps: Tensor, q: Tensor, k: Tensor, attend: Attend) -> Tensor:
    """C' = (S C + 3 S S C) / 4, the program's self-attention power average; shapes as `apply_self_attention`."""
    once = apply_self_attention(maps, q, k, attend)
    return (once + 3 * apply_self_attention(once, q, k, attend)) / 4


def blur(maps: Tensor) -> Tensor:
    """3 x 3 blur of (b, t, H, W) with reflected borders and separable weights e^-1 : 1 : e^-1, summing to 1.

    A side of one cell is extended by copies of that cell.
    """
    # Sums of shifted maps, because a convolution might run in lower precision, and its kernel would have to be copied.
    side = math.exp(-1.0)
    height, width = maps.shape[-2:]
    maps = pad(maps, (1, 1, 0, 0), mode="reflect" if width > 1 else "replicate")
    maps = pad(maps, (0, 0, 1, 1), mode="reflect" if height > 1 else "replicate")
    maps = (maps[..., 1:-1] + side * (maps[..., :-2] + maps[..., 2:])) / (1 + 2 * side)
    return (maps[..., 1:-1, :] + side * (maps[..., :-2, :] + maps[..., 2:, :])) / (1 + 2 * side)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (b, t, hh, ww) bilinearly. This is linear in the maps."""
    return interpolate(maps, size=size, mode="bilinear", align_corners=False)


def upsample_and_blur(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (b, t, hh, ww) bilinearly and blur them. This is linear in the maps."""
    return blur(upsample(maps, size))


Resize = Callable[[Tensor, tuple[int, int]], Tensor]
"""`upsample_and_blur` or `upsample`."""


def mean_weights(grid: tuple[int, int], size: tuple[int, int], resize: Resize = upsample_and_blur) -> Tensor:
    """(hh * ww,) float32: the weight of each token in the spatial mean of a map after it is resized."""
    rows, columns = (
        resize(torch.eye(cells).view(cells, 1, cells, 1), (cells_then, 1)).mean(dim=(1, 2, 3))
        for cells, cells_then in zip(grid, size, strict=True)
    )
    return torch.outer(rows, columns).flatten()


class MapAverage:
    """The average of token maps over blocks, on the r = 2 grid (H2, W2).

    Each map is divided by its spatial mean and added up on its block's own grid. The sums are resized once for each
    grid, which is exact because resizing, blurring and averaging are linear.
    """

    def __init__(self, size: tuple[int, int], resize: Resize = upsample_and_blur) -> None:
        self.size, self._resize = size, resize
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._mean_weights: dict[tuple[int, int], Tensor] = {}
        self.blocks = 0

    def add_maps(self, maps: Tensor, grid: tuple[int, int]) -> None:
        """Add the smoothed maps (b, n, t) of one block, whose grid has n = hh * ww tokens."""
        if grid not in self._sums:
            self._mean_weights[grid] = to_device(mean_weights(grid, self.size, self._resize), maps.device)
            self._sums[grid] = torch.zeros_like(maps)
        mean = torch.einsum("n, b n t -> b t", self._mean_weights[grid], maps)
        self._sums[grid] += maps / (mean + EPS)[:, None]
        self.blocks += 1

    def averaged(self, columns: slice = slice(None)) -> Tensor:
        """(b, t, H2, W2) the average of some of the maps."""
        found = [
            self._resize(rearrange(maps[..., columns], "b (y x) t -> b t y x", y=grid[0]), self.size)
            for grid, maps in self._sums.items()
        ]
        return torch.stack(found).sum(dim=0) / self.blocks


class AttentionMaps(MapAverage):
    """Token maps of one cond or uncond, averaged over blocks.

    Args:
        size: (H2, W2) the r = 2 grid of the part of the latent that the cond sees.
        starts: positions of the start tokens, one for each chunk of the prompt; together they are the background's map.
        every_token: False maps only the start tokens and the sum of all others, which is all that is needed of uncond
            (docs/method.md#exact-savings).
    """

    def __init__(self, size: tuple[int, int], starts: Sequence[int], every_token: bool) -> None:
        super().__init__(size)
        self.starts, self.every_token = sorted(starts), every_token

    def add(self, cross: Tensor, q: Tensor, k: Tensor, grid: tuple[int, int], attend: Attend) -> None:
        """Add the maps of one block.

        Args:
            cross: (b, n, T) float32 cross-attention map C.
            q, k: (b, n, c) its attn1 queries and own keys.
            grid: (hh, ww), n = hh * ww.
            attend: the attention function.
        """
        if not self.every_token:
            cross = self._start_and_rest(cross)
        maps = power_average(cross, q, k, attend)
        if self.every_token:
            maps = torch.cat((maps, self._start_and_rest(maps)), dim=-1)
        self.add_maps(maps, grid)

    def _start_and_rest(self, maps: Tensor) -> Tensor:
        # Slices, because a boolean index would make the host wait for the device, and (whole - start) would cancel
        # where the start token has nearly everything.
        borders = [-1, *self.starts, maps.shape[-1]]
        between = [maps[..., left + 1 : right].sum(dim=-1) for left, right in pairwise(borders)]
        start = torch.stack([maps[..., position] for position in self.starts]).sum(dim=0)
        return torch.stack((start, torch.stack(between).sum(dim=0)), dim=-1)

    @property
    def tokens(self) -> Tensor:
        """(b, T, H2, W2) A, each token's map over its spatial mean."""
        assert self.every_token
        return self.averaged(slice(0, -2))

    @property
    def background(self) -> Tensor:
        """(b, 2, H2, W2) F: the start tokens' map, and all others' together, each over its spatial mean."""
        return self.averaged(slice(-2, None))


def segment(
    token_maps: Tensor, foreground: Tensor, phrase_positions: Sequence[Sequence[int]], suppression: float, cut: bool
) -> Regions:
    """Assign each pixel to its arg-max token, and to the concept that the token names.

    Args:
        token_maps: (b, T, H2, W2) A.
        foreground: (b, H2, W2) bool.
        phrase_positions: for each concept the positions of its phrase; a position in two phrases belongs to the later.
        suppression: factor on tokens that name no concept.
        cut: whether regions are cut to the foreground.

    Returns:
        Regions, on the device of the maps.
    """
    length = token_maps.shape[1]
    concept_of = torch.full((length + 1,), NO_CONCEPT, dtype=torch.int64)
    for index, positions in enumerate(phrase_positions):
        concept_of[list(positions)] = index
    concept_of = to_device(concept_of, token_maps.device)
    factor = torch.where(concept_of[:length] == NO_CONCEPT, suppression, 1.0).to(token_maps)
    strength = token_maps * factor[:, None, None]
    highest = strength == strength.amax(dim=1, keepdim=True)
    # Among equal tokens that of the later concept wins. Ranks start at 1, above the 0 of tokens that are not highest.
    rank = concept_of[:length] - NO_CONCEPT + 1
    tokens = (highest * rank[:, None, None]).argmax(dim=1)
    if cut:
        tokens = torch.where(foreground, tokens, NO_LABEL)
    # Index -1 reads the last entry of the table, which stands for "no token".
    return Regions(tokens, concept_of[tokens], foreground, length)
