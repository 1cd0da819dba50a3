"""The machine that figures come from."""

from __future__ import annotations

import platform

import torch

from .clock import is_process_time


def machine() -> str:
    """The device, the versions, and the clock if it is not the machine's."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"
    return f"{device}, {versions}{', time of the process' if is_process_time() else ''}"
