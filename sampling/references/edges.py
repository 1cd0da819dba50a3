"""Fitting coarse maps to the edges of a picture (docs/method.md#masks-from-words)."""

from torch import Tensor
from torch.nn.functional import interpolate

STEP_PX = 4
"""Every fourth pixel is read, which the masks do not show and the time does."""
EPS = 1e-4
"""The variance of colour, in (0..1)^2, below which a neighbourhood counts as flat."""


def fit_to_edges(picture: Tensor, maps: Tensor, reach_px: int, size: tuple[int, int]) -> Tensor:
    """Maps whose edges are those of the picture: in each neighbourhood a linear function of its colours.

    Args:
        picture: (b, 3, H, W) float32 in 0..1.
        maps: (b, t, hh, ww) float32 of any size.
        reach_px: half the side of the neighbourhoods at the working size, rounded to a multiple of 4; 0 only enlarges
            the maps.
        size: (h, w) the working size, in multiples of 4.

    Returns:
        (b, t, H, W) float32.

    Source: He and Sun, Fast Guided Filter (arXiv 1505.00996), as kornia computes it.
    """
    if reach_px:
        from kornia.filters import guided_blur  # ComfyUI installs it, but starts without it too

        guide = interpolate(picture, size=size, mode="bilinear", align_corners=False, antialias=True)
        maps = interpolate(maps, size=size, mode="bilinear", align_corners=False)
        side_px = 2 * STEP_PX * max(1, round(reach_px / STEP_PX)) + 1
        maps = guided_blur(guide, maps, side_px, EPS, border_type="replicate", subsample=STEP_PX)
    return interpolate(maps, size=picture.shape[-2:], mode="bilinear", align_corners=False)
