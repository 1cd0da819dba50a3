"""Trimming masks: growing, shrinking and feathering, on pictures of any size, by any radius."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

Progress = Callable[[int], None]
"""Told of each strip of a picture: how many of its pixels were passed over. It may raise to stop the work."""

GROW_PASSES, FEATHER_PASSES = 2, 4
"""How often each pixel is passed over."""

_STRIP_PX = 2**20
# Up to here (pixels of a picture x width of the blur) sums are taken one by one in the mask's own precision, as they
# always were, so that feathered masks of saved workflows keep their bits. Beyond, that would take many seconds.
_MAX_SINGLE_SUMS = 2**29


def _no_progress(_: int) -> None:
    pass


def grow(mask: Tensor, radius_px: int, progress: Progress = _no_progress) -> Tensor:
    """Grow (radius > 0) or shrink (radius < 0) a mask by a square of 2 |radius| + 1 pixels; (V, H, W) in 0..1.

    Outside the picture the mask counts as empty for growing and as full for shrinking, so a mask that covers the
    whole picture keeps covering it. The time grows with the logarithm of the radius.
    """
    if radius_px == 0:
        return mask
    sign = 1.0 if radius_px > 0 else -1.0
    highest = partial(_highest_near, radius_px=abs(radius_px))
    grown = _along(_along(sign * mask, -2, highest, progress), -1, highest, progress)
    return sign * grown


def feather(mask: Tensor, radius_px: int, progress: Progress = _no_progress) -> Tensor:
    """Soften a mask's edge over about `radius_px` pixels (two box blurs); (V, H, W) in 0..1.

    Only pixels of the picture are averaged, so a mask that covers all of it stays 1 up to the border. The time does
    not grow with the radius beyond 2^29 pixels x widths; the means are then of running sums in double precision.
    """
    if radius_px == 0:
        return mask
    mean = _mean_near if uses_single_sums(mask, radius_px) else _mean_near_by_running_sum
    near, soft = partial(mean, radius_px=radius_px), mask
    for _ in range(2):
        soft = _along(_along(soft, -2, near, progress), -1, near, progress)
    return soft.clamp(0.0, 1.0)


def uses_single_sums(mask: Tensor, radius_px: int) -> bool:
    """Whether a mask (V, H, W) is feathered by single sums. The views' number must not matter to a view's bits."""
    return mask.shape[-2] * mask.shape[-1] * (2 * radius_px + 1) <= _MAX_SINGLE_SUMS


def _along(mask: Tensor, dim: int, change: Callable[[Tensor], Tensor], progress: Progress) -> Tensor:
    """(V, H, W): what `change` makes of all lines (k, length) of the mask along a dimension, -1 or -2."""
    changed = torch.empty_like(mask, memory_format=torch.contiguous_format)
    old, new = (mask, changed) if dim == -1 else (mask.mT, changed.mT)
    lines = max(1, _STRIP_PX // old.shape[-1])
    for old_view, new_view in zip(old, new, strict=True):
        for old_strip, new_strip in zip(old_view.split(lines), new_view.split(lines), strict=True):
            new_strip.copy_(change(old_strip.contiguous()))
            progress(old_strip.numel())
    return changed


def _highest_near(lines: Tensor, radius_px: int) -> Tensor:
    """(k, n): the highest value within a radius in each line, from windows of 1, 2, 4, ... pixels."""
    length = lines.shape[-1]
    radius = min(radius_px, length - 1)
    size, window = 2 * radius + 1, 1
    highest = pad(lines, (radius, radius), value=-math.inf)
    while 2 * window <= size:
        highest = torch.maximum(highest[:, :-window], highest[:, window:])
        window *= 2
    return torch.maximum(highest[:, :length], highest[:, size - window : size - window + length])


def _mean_near(lines: Tensor, radius_px: int) -> Tensor:
    """(k, n): the mean within a radius in each line."""
    size = 1, 2 * radius_px + 1
    return avg_pool2d(lines[None, None], size, stride=1, padding=(0, radius_px), count_include_pad=False)[0, 0]


def _mean_near_by_running_sum(lines: Tensor, radius_px: int) -> Tensor:
    """The same but for rounding, at a cost that does not depend on the radius."""
    length = lines.shape[-1]
    sums = pad(lines.cumsum(-1, dtype=torch.float64), (1, 0))
    at = torch.arange(length, device=lines.device)
    first, end = (at - radius_px).clamp(min=0), (at + radius_px + 1).clamp(max=length)
    return ((sums[:, end] - sums[:, first]) / (end - first)).to(lines.dtype)
