"""The judge: a small network that finds a portrait's parts, the patterns on them and its style, from pixels alone.

It was trained on exact masks. It does not depend on prompts, on attention or on the method that it measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from devtools.pins import ROOT

from .portraits import LOOKS, PATTERNS, STYLES

WEIGHTS = ROOT / "tests" / "judge.safetensors"
PARTS = tuple(LOOKS)
SIDE_PX = 128  # of the pictures that the judge is given
_WIDTHS = (16, 32, 64)


class Judge(nn.Module):
    """A U-Net with three levels, from pixels to parts, patterns and style."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = _WIDTHS
        self.down_1, self.down_2 = _layers(3, first), _layers(first, second)
        self.middle = _layers(second, third, dilations=(1, 2, 4))
        self.up_2, self.up_1 = _layers(third + second, second), _layers(second + first, first)
        self.out = nn.Conv2d(first, 1 + len(PARTS) + len(PATTERNS), 1)
        self.style = nn.Linear(first + third, len(STYLES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find parts, patterns and style.

        Args:
            pictures: (b, 3, h, w) float32 in 0..1, h and w multiples of 16.

        Returns:
            (b, 1 + parts, h, w) logits of background and parts, (b, patterns, h, w) logits of patterns, (b, styles)
            logits of styles.
        """
        fine = self.down_1(pictures * 2 - 1)
        coarse = self.down_2(F.avg_pool2d(fine, 2))
        x = self.middle(F.avg_pool2d(coarse, 4))
        whole = torch.cat([fine.mean((2, 3)), x.mean((2, 3))], dim=1)
        x = self.up_2(torch.cat([_larger(x, 4), coarse], dim=1))
        x = self.up_1(torch.cat([_larger(x, 2), fine], dim=1))
        parts, patterns = self.out(x).split([1 + len(PARTS), len(PATTERNS)], dim=1)
        return parts, patterns, self.style(whole)


def _layers(inside: int, outside: int, dilations: tuple[int, ...] = (1, 1)) -> nn.Sequential:
    layers: list[nn.Module] = []
    for dilation in dilations:
        layers += [
            nn.Conv2d(inside, outside, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        ]
        inside = outside
    return nn.Sequential(*layers)


def _larger(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear")


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the judge sees in pictures.

    Attributes:
        pictures: (b, 3, 128, 128) float32 in 0..1: what it was given.
        labels: (b, 128, 128) int64: 0 is background, l > 0 is part l - 1.
        patterns: (b, patterns, 128, 128) float32 probabilities.
        styles: (b,) int64, index in `STYLES`.
    """

    pictures: Tensor
    labels: Tensor
    patterns: Tensor
    styles: Tensor

    def pixels_of(self, part: str) -> Tensor:
        """(b, 128, 128) bool: the pixels of a part."""
        return self.labels == PARTS.index(part) + 1


def load_judge(path: Path = WEIGHTS) -> Judge:
    """The trained judge, ready for use."""
    judge = Judge()
    judge.load_state_dict({name: weight.float() for name, weight in safetensors.torch.load_file(path).items()})
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def look(judge: Judge, pictures: Tensor) -> Verdict:
    """The judge's verdict on ComfyUI's IMAGE.

    Args:
        judge: the judge.
        pictures: (b, h, w, 3) float32 in 0..1, square.
    """
    small = F.interpolate(rearrange(pictures, "b h w c -> b c h w"), (SIDE_PX, SIDE_PX), mode="area")
    parts, patterns, styles = judge(small)
    return Verdict(small, parts.argmax(1), patterns.softmax(1), styles.argmax(1))
