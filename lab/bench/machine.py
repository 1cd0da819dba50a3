"""The machine that figures come from."""

from __future__ import annotations

import platform

import torch


def machine() -> str:
    """The device and the versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{device}, torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"
