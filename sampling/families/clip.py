"""The text encoders of SD 1.x, SD 2.x and SDXL: how their prompts are laid out."""

from collections.abc import Iterable

CHUNK_TOK = 77
"""Tokens of one chunk of a prompt, its start token first."""

_STREAMS = {"l", "g", "h"}
_SDXL_STREAM = "g"


def check_streams(streams: Iterable[str]) -> None:
    """Raise a ValueError unless a text encoder, which reads these token streams, belongs to this family."""
    if not set(streams) <= _STREAMS:
        given = ", ".join(sorted(streams))
        raise ValueError(f"the text encoder reads {given}; connect the CLIP of an SD 1.x, SD 2.x or SDXL checkpoint")


def default_side_px(streams: Iterable[str]) -> int:
    """The side of the square pictures that a model with this text encoder was trained on."""
    return 1024 if _SDXL_STREAM in streams else 512
