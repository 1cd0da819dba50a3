"""Which images of an evaluation a call is for: other nodes split a batch into windows of images."""

from collections.abc import Mapping
from typing import Any

Images = tuple[int, ...]
"""Indices into the batch of the evaluation's latent."""


def images_of(count: int, batch: int, transformer_options: Mapping[str, Any]) -> Images | None:
    """The images that a call with `count` of an evaluation's `batch` images is for; None if that is not known.

    ComfyUI's context windows say it as `context_window`, and AnimateDiff-Evolved's as `ad_params["sub_idxs"]`.
    """
    if count == batch:
        return tuple(range(batch))
    window = transformer_options.get("context_window")
    evolved = transformer_options.get("ad_params", {}).get("sub_idxs")
    for images in (_of_context_window(window), evolved):
        if images is not None and len(images) == count and all(0 <= image < batch for image in images):
            return tuple(images)
    return None


def _of_context_window(window: Any) -> list[int] | None:
    if window is None or window.dim != 0:
        return None
    before = getattr(window, "causal_anchor_index", None)  # an image that newer versions put in front
    return [*([] if before is None or before < 0 else [before]), *window.index_list]
