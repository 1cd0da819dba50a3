"""Makes the masks of one drawing in the ways of the rows. What several rows read of it is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import kornia.filters
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from .mask_decisions import otsu, without_small_parts
from .mask_rows import MaskRow
from .studio import SIZE_PX

if TYPE_CHECKING:
    from .studio import Studio

# The joint bilateral filter: its side and reach in pixels, and its reach in colour.
_BILATERAL = (33, (12.0, 12.0), 0.1)


class MaskMaker:
    """The masks of one drawing.

    Args:
        studio: the model and the pack.
        picture: (H, W, 3) uint8.
        caption: what it shows.
    """

    def __init__(self, studio: Studio, picture: NDArray[np.uint8], caption: str) -> None:
        self._studio, self._caption = studio, caption
        self._references = studio.pack.sampling.references
        self._segmentation = studio.pack.attention.segmentation
        self._prompt = studio.pack.sampling.conditioning.prompt.read_tokens(studio.clip, caption)
        self._picture = torch.from_numpy(picture.astype(np.float32) / 255)[None]
        self._encoded = self._references.encoding.encode_reference(
            self._picture, None, studio.vae, studio.clip, caption, "person", SIZE_PX
        )
        self._maps: dict[tuple[object, ...], Tensor] = {}

    def masks(self, parts: Sequence[str], row: MaskRow) -> list[NDArray[np.bool_]]:
        """(H, W) bool, the mask of each part."""
        defaults = self._references.concept_mask.MaskSettings()
        edge_px = defaults.edge_px if row.edge_px is None else row.edge_px
        fitted = self._fit(torch.cat([self._relative(part, row) for part in parts], dim=1), row, edge_px)[0]
        threshold = defaults.threshold if row.threshold is None else row.threshold
        thresholds = {"relative": lambda _: threshold, "Otsu": otsu}
        above = [(of > thresholds.get(row.decision, lambda _: 0.5)(of)).numpy() for of in fitted]
        return [without_small_parts(mask) for mask in above] if row.drop_small else above

    def _relative(self, part: str, row: MaskRow) -> Tensor:
        """(1, 1, H2, W2) in 0..1: the map that is fitted to edges."""
        maps = self._all_maps(row)
        phrase = self._references.encoding.check_texts(self._studio.vae, self._studio.clip, self._caption, part)
        positions = self._prompt.positions(phrase)
        if row.decision in ("relative", "Otsu"):
            relative: Tensor = self._studio.pack.attention.concept_map.relative_map(maps[:, positions])
            return relative
        others = [index for index in range(maps.shape[1]) if index not in positions]
        own = maps[:, positions].amax(dim=1, keepdim=True)
        other = maps[:, others].amax(dim=1, keepdim=True) * row.suppression
        return (own >= other).float() if row.decision == "arg-max" else own / (own + other)

    def _all_maps(self, row: MaskRow) -> Tensor:
        """(1, T, H2, W2) the maps of all tokens of the caption."""
        if row.reading not in self._maps:
            module, settings = self._references.concept_mask, self._references.concept_mask.MaskSettings()
            segmentation = self._segmentation
            reading = module.Reading(
                range(len(self._prompt.tokens)),
                self._studio.pack.attention.blocks.concept_mask_blocks(row.blocks, self._studio.layout),
                row.levels or settings.levels,
                row.noises or settings.noises,
                module.SeededNoise(0),
                self._smooth(row),
                segmentation.upsample_and_blur if row.blurred else segmentation.upsample,
            )
            (self._maps[row.reading],) = module.word_maps(self._studio.model, self._encoded, reading)
        return self._maps[row.reading]

    def _smooth(self, row: MaskRow) -> Any:
        once = self._segmentation.apply_self_attention

        def twice(maps: Tensor, *given: Any) -> Tensor:
            return once(once(maps, *given), *given)

        ways = {"C'": self._segmentation.power_average, "C": lambda maps, *_: maps, "S C": once, "S S C": twice}
        return ways[row.smoothing]

    def _fit(self, relative: Tensor, row: MaskRow, edge_px: int) -> Tensor:
        guide = self._picture.movedim(-1, 1)
        if row.filter == "joint bilateral":
            enlarged = interpolate(relative, size=guide.shape[-2:], mode="bilinear", align_corners=False)
            side, reach_px, reach_colour = _BILATERAL
            return kornia.filters.joint_bilateral_blur(enlarged, guide, side, reach_colour, reach_px)
        fitted: Tensor = self._references.edges.fit_to_edges(guide, relative, edge_px, (SIZE_PX, SIZE_PX))
        return fitted
