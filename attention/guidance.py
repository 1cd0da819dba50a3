"""Semantic guidance: regions that guidance pushes less than the foreground's mean are pushed more."""

import torch
from torch import Tensor

from .regions import NO_LABEL, Regions, resize_nearest
from .segmentation import EPS, blur

MIN_RATE, MAX_RATE, MAX_TOTAL = 0.8, 3.0, 15.0


def guidance_rate(delta: Tensor, regions: Regions, cfg: float) -> Tensor:
    """The factor on guidance, pixel by pixel.

    Args:
        delta: (b, ch, H, W) cond - uncond, as noise or denoised: only ratios of its norms count.
        regions: of the same evaluation.
        cfg: the guidance scale.

    Returns:
        (b, 1, H, W) float32 in 0.8..3.0 and at most 15 / cfg.

    Source: docs/method.md#semantic-guidance.
    """
    norm = torch.linalg.vector_norm(delta.float(), dim=1).flatten(1)
    foreground = resize_nearest(regions.foreground, delta.shape[-2:]).flatten(1).float()
    in_foreground = (norm * foreground).sum(dim=1, keepdim=True) / (foreground.sum(dim=1, keepdim=True) + EPS)

    # Slot 0 is for pixels without a label. One-hot sums, because scatter sums vary from run to run on a GPU.
    slot = resize_nearest(regions.labels, delta.shape[-2:]).flatten(1) - NO_LABEL
    member = (slot[:, None] == torch.arange(regions.label_count + 1, device=slot.device)[:, None]).float()
    in_label = (member * norm[:, None]).sum(dim=2) / (member.sum(dim=2) + EPS)
    rate = in_foreground / (in_label + EPS)
    rate[:, 0] = 0.0

    of_pixel = rate.gather(1, slot).view(delta.shape[0], 1, *delta.shape[-2:])
    return blur(of_pixel.clamp(MIN_RATE, MAX_RATE).clamp(max=MAX_TOTAL / cfg if cfg > 0 else MAX_RATE))
