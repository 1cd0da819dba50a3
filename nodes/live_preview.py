"""Shows the regions in the sampler's own preview while it samples."""

import logging
from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview
import torch
from PIL import Image
from torch import Tensor

from ..sampling.run.run import Run
from .drawing.pillow import from_pillow, to_pillow
from .drawing.regions import draw_regions

log = logging.getLogger(__name__)
_MIN_PX, _MAX_PX = 256, 512


class LivePreview:
    """Sends a picture after each step of a run; it replaces the preview that the sampler has just sent.

    Args:
        model: ComfyUI's ModelPatcher; its previewer is the one that the user has chosen.
    """

    def __init__(self, model: Any) -> None:
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._bar: Any = None
        self._failed = False

    def __call__(self, run: Run, step: int, x0: Tensor, total: int) -> None:
        """Show the regions of the batch's first image. Where that fails, the run goes on without."""
        if self._failed:
            return
        try:
            self._show(run, step, x0, total)
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception:  # previewers of other packs may do anything
            self._failed = True
            log.exception("MagicFace: the regions cannot be shown while sampling.")

    def _show(self, run: Run, step: int, x0: Tensor, total: int) -> None:
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total)
        picture = self._picture(x0)
        history = run.regions.read()
        drawn = draw_regions(picture, history.steps[-1], 0, history.concept_names, self._previewer is not None)
        self._bar.update_absolute(step + 1, total, ("JPEG", to_pillow(drawn), _MAX_PX))

    def _picture(self, x0: Tensor) -> Tensor:
        """(H_px, W_px, 3) the latent as the sampler shows it; grey if previews are off."""
        scale = max(1.0, _MIN_PX / min(x0.shape[-2:]))
        size = (round(x0.shape[-1] * scale), round(x0.shape[-2] * scale))
        # Previewers of other packs may return anything.
        preview = self._previewer.decode_latent_to_preview_image("JPEG", x0) if self._previewer else None
        shown = preview[1] if preview else None
        if not isinstance(shown, Image.Image):
            return torch.full((size[1], size[0], 3), 0.25)
        if min(shown.size) < _MIN_PX:
            shown = shown.resize(size, Image.Resampling.BICUBIC)
        return from_pillow(shown)
