"""Ways to decide about a mask that the node does not use, for comparison."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

_BINS = 128
_SMALL = 0.2  # of the largest part of a mask


def otsu(values: Tensor) -> float:
    """Otsu's threshold of values in 0..1: that which separates two groups with the largest variance between them."""
    counts = torch.histc(values.clamp(0, 1), _BINS, 0, 1).double()
    centres = (torch.arange(_BINS).double() + 0.5) / _BINS
    below, sums = counts.cumsum(0), (counts * centres).cumsum(0)
    above = below[-1] - below
    between = (sums[-1] * below / below[-1] - sums) ** 2 / (below * above).clamp_min(1)
    return float(centres[int(between.argmax())] + 0.5 / _BINS)


def without_small_parts(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without its parts that are smaller than a fifth of the largest."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    large: NDArray[np.bool_] = (sizes >= _SMALL * max(1, sizes.max())) & (sizes > 0)
    kept: NDArray[np.bool_] = large[labels]
    return kept
