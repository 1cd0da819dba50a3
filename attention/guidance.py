"""Semantic-aware guidance: regions that guidance pushes less than the foreground's mean are pushed more (METHOD 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from .regions import NO_TOKEN, Regions, carry
from .segmentation import EPS, blur

LOWEST, HIGHEST, HIGHEST_TOTAL = 0.8, 3.0, 15.0


def guidance_rate(delta: Tensor, regions: Regions, cfg: float) -> Tensor:
    """The factor on guidance, pixel by pixel.

    Args:
        delta: (b, ch, H, W) cond - uncond, as noise or denoised: only ratios of its norms count.
        regions: of the same evaluation.
        cfg: the guidance scale.

    Returns:
        (b, 1, H, W) float32 in 0.8..3.0 and at most 15 / cfg.
    """
    norm = torch.linalg.vector_norm(delta.float(), dim=1).flatten(1)
    foreground = carry(regions.foreground, delta.shape[-2:]).flatten(1).float()
    in_foreground = (norm * foreground).sum(dim=1, keepdim=True) / (foreground.sum(dim=1, keepdim=True) + EPS)

    # Slot 0 is for pixels with no token. Sums over one-hot maps: scattered sums change from run to run on a GPU.
    slot = carry(regions.tokens, delta.shape[-2:]).flatten(1) - NO_TOKEN
    member = (slot[:, None] == torch.arange(regions.length + 1, device=slot.device)[:, None]).float()
    in_token = (member * norm[:, None]).sum(dim=2) / (member.sum(dim=2) + EPS)
    rate = in_foreground / (in_token + EPS)
    rate[:, 0] = 0.0

    of_pixel = rate.gather(1, slot).view(delta.shape[0], 1, *delta.shape[-2:])
    return blur(of_pixel.clamp(LOWEST, HIGHEST).clamp(max=HIGHEST_TOTAL / cfg if cfg > 0 else HIGHEST))
