"""Who is who in a UNet call: which rows are the prompt's, which the negative's, and what they look at.

ComfyUI calls the UNet for any list of conds, alone or together and in any order, and other packs call it too. What
a row is, is not its place but whose list its cond stands in: the guider's positive list or its negative one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .prompt import TAG, PromptTokens, start_positions

Role = Literal["positive", "negative", "other"]
Area = tuple[int, int, int, int]
"""(height, width, top, left) of the latent that a cond sees."""


@dataclass(frozen=True, eq=False)
class CondRow:
    """One cond of a call.

    Attributes:
        role: whose it is.
        cond: ComfyUI's processed cond.
        area: what it sees of the latent, None for all.
        mask: (b, H, W) where it has a say, None for everywhere.
        length: T, its own number of tokens; 0 without text.
        tag: its words, where it comes from MagicFacePrompt.
        zeroed: whether its text is zeroed out, so that its attention tells nothing.
    """

    role: Role
    cond: dict[str, Any]
    area: Area | None
    mask: Tensor | None
    length: int
    tag: PromptTokens | None
    zeroed: bool = False

    @property
    def hooks(self) -> Any:
        """Its hook group, which decides the weights that the UNet has for it."""
        return self.cond.get("hooks")

    @property
    def starts(self) -> list[int]:
        """Positions of its start tokens."""
        return start_positions(self.tag, self.length)

    def is_on(self, sigma: float) -> bool:
        """Whether it takes part at a noise level, as ComfyUI decides."""
        return not (sigma > self.cond.get("timestep_start", sigma) or sigma < self.cond.get("timestep_end", sigma))


class Texts:
    """What is known of the texts of a run, found again by the text itself.

    A cond's own options may speak of another text than the one it carries: for a prompt with an area ComfyUI gives the
    other list a cond of the same area, with the options (tag and uuid too) of the one and the text of the other.

    Args:
        guider_conds: the guider's lists by name, before ComfyUI prepares them; their texts are still in main memory.
    """

    def __init__(self, guider_conds: dict[str, Any]) -> None:
        self._known: dict[int, tuple[Tensor, PromptTokens | None, bool]] = {}
        for conds in guider_conds.values():
            for cond in conds or ():
                text = cond.get("cross_attn")
                if text is not None:
                    # One text may stand in a list with its tag and in another without. The text is held too, or
                    # another could come to lie in its place.
                    tag = cond.get(TAG) or self.of(text)[0]
                    self._known[id(text)] = text, tag, not bool(torch.any(text))

    def of(self, text: Tensor) -> tuple[PromptTokens | None, bool]:
        """The tag of a text, and whether it is zeroed out."""
        _, tag, zeroed = self._known.get(id(text), (None, None, False))
        return tag, zeroed


KnownConds = dict[tuple[int, Any], CondRow]
"""The conds of one call, by what ComfyUI tells a UNet call of them: (place of the list, uuid)."""


def known_conds(
    conds: Sequence[Any], guider_conds: dict[str, Any], texts: Texts, size_lat: Sequence[int]
) -> KnownConds:
    """Who is who in a call.

    Args:
        conds: the lists of conds that are asked for, None where one is left out.
        guider_conds: the guider's own lists by name.
        texts: the run's texts.
        size_lat: (..., H, W) of the latent.
    """
    known: KnownConds = {}
    for place, conds_there in enumerate(conds):
        role = role_of(conds_there, guider_conds)
        for cond in conds_there or ():
            text = cond["model_conds"].get("c_crossattn")
            length, (tag, zeroed) = (0, (None, False)) if text is None else (text.cond.shape[1], texts.of(text.cond))
            area = _area_of(cond, size_lat)
            known[place, cond["uuid"]] = CondRow(role, cond, area, cond.get("mask"), length, tag, zeroed)
    return known


def role_of(conds: Any, guider_conds: dict[str, Any]) -> Role:
    """The role of a list of conds: identity with the guider's own decides."""
    if conds is not None and conds is guider_conds.get("positive"):
        return "positive"
    if conds is not None and conds is guider_conds.get("negative"):
        return "negative"
    return "other"


def _area_of(cond: dict[str, Any], size_lat: Sequence[int]) -> Area | None:
    """The cond's area, cut to the latent as ComfyUI cuts it."""
    if "area" not in cond:
        return None
    height, width, top, left = cond["area"]
    return min(size_lat[-2] - top, height), min(size_lat[-1] - left, width), top, left
