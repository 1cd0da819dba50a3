"""Small tensors on their way to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on a device. A GPU of CUDA takes it without the host's waiting, which is safe from ordinary memory."""
    upwards = tensor.device.type == "cpu" and device.type == "cuda"
    return tensor.to(device, dtype or tensor.dtype, non_blocking=upwards)
