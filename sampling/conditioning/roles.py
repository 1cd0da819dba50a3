"""The role of each cond in a UNet call: whether its rows are the positive prompt's or the negative one's.

ComfyUI calls the UNet for any lists of conds, alone or together and in any order, and so do other packs. So a role is
not a position in a call: it is decided by the list that the cond is in, the guider's positive or its negative one, or a
copy of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .parts import prompt_of
from .prompt import PromptTokens, start_positions

Role = Literal["positive", "negative", "other"]
Area = tuple[int, int, int, int]
"""(height, width, top, left) of the latent that a cond sees."""


@dataclass(frozen=True, eq=False)
class CondRow:
    """One cond of a call.

    Attributes:
        role: of the list that it is in.
        cond: ComfyUI's processed cond.
        area: the part of the latent that it sees, None for all of it.
        mask: (b, H, W) where it counts, None for everywhere.
        length: T, its own number of tokens; 0 without text.
        tag: the positions of its words, if its prompt was tagged.
        zeroed: whether its text is zeroed out, so that its attention maps mean nothing.
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
        """Its hook group, which decides the UNet's weights for it."""
        return self.cond.get("hooks")

    @property
    def starts(self) -> list[int]:
        """Positions of its start tokens."""
        return start_positions(self.tag, self.length)

    def is_on(self, sigma: float) -> bool:
        """Whether it takes part at a noise level, as ComfyUI decides."""
        return not (sigma > self.cond.get("timestep_start", sigma) or sigma < self.cond.get("timestep_end", sigma))


class Texts:
    """The tags of a run's texts, found by the text tensor itself.

    A cond's own options may belong to another text than the one it has: for a prompt with an area ComfyUI adds a cond
    with the same area to the other list, with the options (tag and uuid too) of the first and the text of the second.

    Args:
        guider_conds: the guider's lists by name before ComfyUI prepares them, their texts still in main memory.

    Attributes:
        positive_is_zeroed: whether all texts of the positive list are zeroed out.
    """

    def __init__(self, guider_conds: dict[str, Any]) -> None:
        self._known: dict[int, tuple[Tensor, PromptTokens | None, bool]] = {}
        positive = [cond["cross_attn"] for cond in guider_conds.get("positive") or () if "cross_attn" in cond]
        self.positive_is_zeroed = bool(positive) and not any(bool(torch.any(text)) for text in positive)
        for conds in guider_conds.values():
            for cond in conds or ():
                text = cond.get("cross_attn")
                if text is not None:
                    # One text may be in a list with its tag and in another without. The text is referenced too, so
                    # that its id is not reused.
                    tag = prompt_of(cond) or self.of(text)[0]
                    self._known[id(text)] = text, tag, not bool(torch.any(text))

    def of(self, text: Tensor) -> tuple[PromptTokens | None, bool]:
        """The tag of a text, and whether it is zeroed out."""
        _, tag, zeroed = self._known.get(id(text), (None, None, False))
        return tag, zeroed


KnownConds = dict[tuple[int, Any], CondRow]
"""The conds of one call, under what ComfyUI passes to a UNet call: (index of the list, uuid)."""


@dataclass(frozen=True, eq=False)
class CondList:
    """A requested list of conds.

    Attributes:
        role: of all its conds.
        conds: for each of them the guider's own; its own ones if it has no role.
    """

    role: Role
    conds: Sequence[dict[str, Any]]


def match_list(conds: Sequence[dict[str, Any]] | None, guider_conds: dict[str, Any]) -> CondList:
    """Match a requested list with the guider's positive or negative one.

    It is that very list, or a copy in which each cond still has the uuid and the text of one of the guider's. Other
    nodes copy lists, as windows over a batch do, which keep some images of masks and texts. The uuid alone is not
    enough: see `Texts`.
    """
    roles: tuple[Role, Role] = ("positive", "negative")
    for role in roles:
        is_own = conds is guider_conds.get(role)
        if conds is not None and is_own:
            return CondList(role, conds)
    for role in roles:
        originals = [_original(cond, guider_conds.get(role) or ()) for cond in conds or ()]
        found = [cond for cond in originals if cond is not None]
        if found and len(found) == len(originals):
            return CondList(role, found)
    return CondList("other", conds or ())


def _original(cond: dict[str, Any], listed: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The cond of a guider's list that a cond is a copy of."""
    for original in listed:
        if cond.get("uuid") == original["uuid"] and _is_same_text(_text_of(cond), _text_of(original)):
            return original
    return None


def _text_of(cond: dict[str, Any]) -> Tensor | None:
    text = cond["model_conds"].get("c_crossattn")
    return None if text is None else text.cond


def _is_same_text(text: Tensor | None, original: Tensor | None) -> bool:
    """Whether every row of a text (b', T, width) is one of the original's (b, T, width)."""
    if text is None or original is None or text is original:
        return text is original
    if text.shape[1:] != original.shape[1:]:
        return False
    same = (text.to(original)[:, None] == original[None]).flatten(2).all(dim=-1)
    return bool(same.any(dim=1).all())


def known_conds(lists: Sequence[CondList], texts: Texts, shape: Sequence[int]) -> KnownConds:
    """The conds of a call with their roles.

    Args:
        lists: the requested lists.
        texts: the run's texts.
        shape: (..., H, W) of the latent.
    """
    known: KnownConds = {}
    for index, listed in enumerate(lists):
        for cond in listed.conds:
            text = _text_of(cond)
            length, (tag, zeroed) = (0, (None, False)) if text is None else (text.shape[1], texts.of(text))
            area = _area_of(cond, shape)
            known[index, cond["uuid"]] = CondRow(listed.role, cond, area, cond.get("mask"), length, tag, zeroed)
    return known


def _area_of(cond: dict[str, Any], shape: Sequence[int]) -> Area | None:
    """The cond's area, cropped to the latent as ComfyUI does it."""
    if "area" not in cond:
        return None
    height, width, top, left = cond["area"]
    return min(shape[-2] - top, height), min(shape[-1] - left, width), top, left


def half_grid_span(area: Area | None) -> tuple[slice, slice]:
    """The rows and columns of the r = 2 grid that an area of the latent covers."""
    if area is None:
        return slice(None), slice(None)
    height, width, top, left = area
    return slice(top // 2, (top + height + 1) // 2), slice(left // 2, (left + width + 1) // 2)
