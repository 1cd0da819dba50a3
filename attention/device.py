"""Copying small tensors to a device."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a tensor to a device. A copy from the CPU to CUDA does not block; from pageable memory that is safe."""
    to_cuda = tensor.device.type == "cpu" and device.type == "cuda"
    return tensor.to(device, dtype or tensor.dtype, non_blocking=to_cuda)
