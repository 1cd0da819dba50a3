"""The judge on pictures of two figures, which it never saw in training and which are smaller than those it saw."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...judge import PARTS, SIDE_PX, Judge, Verdict

# Each half of the picture is judged alone, at these heights, and the mean of the probabilities counts. Chosen on drawn
# twins: in the gap between two figures the judge otherwise finds things that are not there.
HEIGHTS_PX = (128, 160, 192)
_MULTIPLE = 16  # the judge's sizes
_USUAL_WIDTH = 2  # at the usual height a half is judged in the middle of a picture that is so many times as wide


@torch.no_grad()
def look_at_halves(judge: Judge, picture: Tensor) -> Verdict:
    """The judge's verdict on a picture of two figures.

    Args:
        judge: the judge.
        picture: (h, w, 3) float32 in 0..1, square.
    """
    small = F.interpolate(rearrange(picture[None], "b h w c -> b c h w"), (SIDE_PX, SIDE_PX), mode="area")
    means = [torch.stack([_at(judge, x, height) for height in HEIGHTS_PX]).mean(0) for x in small.chunk(2, dim=-1)]
    parts, patterns = torch.cat(means, dim=-1).split([1 + len(PARTS), means[0].shape[1] - 1 - len(PARTS)], dim=1)
    return Verdict(small, parts.argmax(1), patterns, judge(small)[2].argmax(1))


def _at(judge: Judge, part: Tensor, height: int) -> Tensor:
    """(b, parts and patterns, 128, w) probabilities of a part of the picture that is (b, 3, 128, w), seen larger."""
    size, width = part.shape[-2:], part.shape[-1] * height // SIDE_PX
    larger = F.interpolate(part, (height, width), mode="bilinear", antialias=True)
    beside = width * (_USUAL_WIDTH - 1) if height == SIDE_PX else -width % _MULTIPLE
    left = beside // 2
    seen = judge(F.pad(larger, (left, beside - left, 0, 0), mode="replicate"))[:2]
    found = [logits[..., left : left + width] for logits in seen]
    return torch.cat(
        [F.interpolate(logits, size, mode="bilinear", antialias=True).softmax(dim=1) for logits in found], dim=1
    )
