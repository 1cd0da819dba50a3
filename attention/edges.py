"""Fitting coarse maps to the edges of a picture: the guided filter (docs/method.md#masks-from-words)."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

EPS = 1e-4
"""The variance of colour, in (0..1)^2, below which a neighbourhood counts as flat."""


def box_mean(maps: Tensor, radius_px: int) -> Tensor:
    """The mean of maps (..., H, W) over squares of side 2 radius + 1, at borders over what lies inside."""
    return _mean_along_rows(_mean_along_rows(maps, radius_px).mT, radius_px).mT


def _mean_along_rows(maps: Tensor, radius_px: int) -> Tensor:
    # Running sums, whose cost does not grow with the radius; in float32 they would lose the variance of flat areas.
    width = maps.shape[-1]
    sums = pad(maps.double().cumsum(dim=-1), (radius_px + 1, 0))
    sums = torch.cat((sums, sums[..., -1:].expand(*sums.shape[:-1], radius_px)), dim=-1)
    at = torch.arange(width, device=maps.device)
    counts = (at + radius_px + 1).clamp(max=width) - (at - radius_px).clamp(min=0)
    return ((sums[..., 2 * radius_px + 1 :] - sums[..., :width]) / counts).to(maps.dtype)


def guided_filter(picture: Tensor, maps: Tensor, radius_px: int, size: tuple[int, int] | None = None) -> Tensor:
    """Maps whose edges are those of the picture: in each neighbourhood a linear function of its colours.

    Args:
        picture: (b, 3, H, W) in 0..1, the guide.
        maps: (b, t, hh, ww) of any size, enlarged bilinearly.
        radius_px: of the neighbourhoods, at the working size; 0 leaves the maps as they are.
        size: (h, w) the working size, at which the linear functions are found; by default the picture's.

    Returns:
        (b, t, H, W) float32.

    Source: He, Sun and Tang, Guided Image Filtering (TPAMI 2013), with a guide in colour; the working size as in their
    Fast Guided Filter (arXiv 1505.00996).
    """
    full = picture.shape[-2:]
    picture = picture.float()
    if radius_px == 0:
        return interpolate(maps.float(), size=full, mode="bilinear", align_corners=False)
    size = size or (full[0], full[1])
    guide = interpolate(picture, size=size, mode="bilinear", align_corners=False, antialias=True)
    targets = interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
    slopes, offsets = _linear_functions(guide, targets, radius_px)
    b, t = targets.shape[:2]
    slopes = interpolate(slopes.flatten(1, 2), size=full, mode="bilinear", align_corners=False)
    offsets = interpolate(offsets, size=full, mode="bilinear", align_corners=False)
    return (slopes.view(b, t, 3, *full) * picture[:, None]).sum(dim=2) + offsets


def _linear_functions(guide: Tensor, targets: Tensor, radius_px: int) -> tuple[Tensor, Tensor]:
    """(b, t, 3, h, w) slopes and (b, t, h, w) offsets of the least-squares fits, averaged over all squares of a pixel.

    Args:
        guide: (b, 3, h, w).
        targets: (b, t, h, w).
        radius_px: half the squares' side.
    """
    b, t, height, width = targets.shape
    squares = (guide[:, :, None] * guide[:, None]).flatten(1, 2)
    products = (targets[:, :, None] * guide[:, None]).flatten(1, 2)
    guide_mean, target_mean = box_mean(guide, radius_px), box_mean(targets, radius_px)
    variance = box_mean(squares, radius_px).view(b, 3, 3, height, width) - guide_mean[:, :, None] * guide_mean[:, None]
    covariance = box_mean(products, radius_px).view(b, t, 3, height, width)
    covariance = covariance - target_mean[:, :, None] * guide_mean[:, None]
    variance = variance.permute(0, 3, 4, 1, 2) + EPS * torch.eye(3, device=guide.device)
    slopes = torch.linalg.solve(variance, covariance.permute(0, 3, 4, 2, 1)).permute(0, 4, 3, 1, 2)
    offsets = target_mean - (slopes * guide_mean[:, None]).sum(dim=2)
    slopes = box_mean(slopes.reshape(b, t * 3, height, width), radius_px).view(b, t, 3, height, width)
    return slopes, box_mean(offsets, radius_px)
