"""One UNet call: its attention looks at the references, and tells what segmentation reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..attention.blocks import Block
from ..attention.looking import Gaze
from ..attention.rba import region_grouped_blend_attention
from ..attention.rsa import reference_aware_self_attention
from ..attention.schedule import Stage
from ..attention.segmentation import cross_attention_map
from .attention_call import HostAttend
from .gazes import GazeRecorder
from .method import Method
from .neighbours import neighbours
from .reference_pass import KeptKeys
from .roles import CondRow, KnownConds
from .segmenter import RegionIndex, Segmenter

Patch = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]


@dataclass(frozen=True, eq=False)
class CallPlan:
    """What the UNet calls made for one list of conds share.

    Attributes:
        method: the method.
        stage: the evaluation's stage.
        known: who is who.
        keys: what the references left, by the hook group of the cond that looks at them.
        regions: those that steer RBA, if there are any yet.
        segmenter: takes in attention maps, or None when nobody asks.
        recorder: keeps attention to be shown, or None.
        size_lat: (H, W) of the latent that the conds are asked for.
    """

    method: Method
    stage: Stage
    known: KnownConds
    keys: dict[Any, KeptKeys]
    regions: RegionIndex | None
    segmenter: Segmenter | None
    recorder: GazeRecorder | None
    size_lat: tuple[int, ...]

    @property
    def shown_row(self) -> CondRow | None:
        """The cond whose attention is kept: the prompt's first that sees the whole picture."""
        whole = (row for row in self.known.values() if row.role == "positive" and row.area is None)
        return next(whole, None)


class UNetCall:
    """The patches of one call.

    Args:
        plan: what it shall do.
        x: (rows, ch, H, W) what the UNet is given.
        context: (rows, T', width) the text, tiled by ComfyUI where prompts differ in length.
        options: the call's transformer options.
    """

    def __init__(self, plan: CallPlan, x: Tensor, context: Tensor | None, options: dict[str, Any]) -> None:
        self._plan = plan
        places = list(zip(options.get("cond_or_uncond", ()), options.get("uuids", ()), strict=False))
        images = x.shape[0] // max(1, len(places))
        _check_whole(plan, places, x)
        self._rows: list[tuple[slice, CondRow | None]] = [
            (slice(i * images, (i + 1) * images), plan.known.get(place)) for i, place in enumerate(places)
        ]
        self._total_rows = x.shape[0]
        self._size_lat = x.shape[-2:]
        self._options = options
        self._context_tok = 0 if context is None else context.shape[1]
        self._queries: dict[Block, tuple[Tensor, Tensor]] = {}

    def patched(self, options: dict[str, Any]) -> dict[str, Any]:
        """A copy of the options in which our blocks' attention is ours, around whatever stands there already."""
        replace = {name: dict(entries) for name, entries in options.get("patches_replace", {}).items()}
        for name, blocks, attention in (
            ("attn1", self._attn1_blocks(), self._self_attention),
            ("attn2", self._attn2_blocks(), self._cross_attention),
        ):
            entries = replace.setdefault(name, {})
            for block in blocks:
                entries[block.key] = self._around(
                    attention, block, entries.get(block.key) or entries.get(block.key[:2])
                )
        return {**options, "patches_replace": replace}

    def _attn2_blocks(self) -> Sequence[Block]:
        return self._plan.method.segmentation if self._plan.segmenter else ()

    def _attn1_blocks(self) -> Sequence[Block]:
        method = self._plan.method
        return [*method.injection, *(block for block in self._attn2_blocks() if block not in method.injection)]

    def _around(self, attention: Callable[..., Tensor], block: Block, standing: Patch | None) -> Patch:
        def patch(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
            return attention(block, standing, q, k, v, extra_options)

        return patch

    def _self_attention(
        self, block: Block, standing: Patch | None, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]
    ) -> Tensor:
        grid = self._grid(block, q, extra)
        self._check_keys(block, k, q.shape[1])
        attend = HostAttend(extra)
        if block in self._attn2_blocks():
            self._queries[block] = q, k[:, : q.shape[1]]  # own keys: others' additions stand behind them
        looking = [(rows, row) for rows, row in self._rows if row is not None and self._looks(row)]
        if not looking or block not in self._plan.method.injection:
            return standing(q, k, v, extra) if standing else attend(q, k, v)

        own = standing(q, k, v, extra) if standing else None
        out = torch.empty_like(q) if own is None else own.clone()
        if own is None:
            for rows, row in self._rows:
                if row is None or not self._looks(row):
                    out[rows] = attend(q[rows], k[rows], v[rows])
        for rows, row in looking:
            own_rows = None if own is None else own[rows]
            out[rows] = self._blend(block, grid, row, attend, (q[rows], k[rows], v[rows]), own_rows)
        return out

    def _looks(self, row: CondRow) -> bool:
        return row.role == "positive" and row.hooks in self._plan.keys

    def _blend(
        self,
        block: Block,
        grid: tuple[int, int],
        row: CondRow,
        attend: HostAttend,
        qkv: tuple[Tensor, Tensor, Tensor],
        own: Tensor | None,
    ) -> Tensor:
        """RSA, or RBA once there are regions."""
        plan, device = self._plan, qkv[0].device
        concepts = [c and c.to(device) for c in plan.keys[row.hooks][block]]
        groups = None
        if plan.stage is Stage.INJECTION and plan.regions is not None:
            found = plan.regions.groups(row.area, grid, device)
            # Another pack's nested call may be of other images than the regions.
            groups = found if len(found) == qkv[0].shape[0] else None
        if plan.recorder is not None and row is plan.shown_row and plan.recorder.wants(block):
            q, k, _ = qkv
            given = None if groups is None or plan.regions is None else plan.regions.given(grid)
            own_k = k[:, : q.shape[1]]  # others' additions stand behind them
            plan.recorder.keep(block, plan.stage, Gaze(q, own_k, tuple(concepts), given, grid, attend.heads))
        if groups is None:
            return reference_aware_self_attention(attend, *qkv, concepts, own)
        return region_grouped_blend_attention(attend, *qkv, concepts, groups, own)

    def _cross_attention(
        self, block: Block, standing: Patch | None, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]
    ) -> Tensor:
        attend = HostAttend(extra)
        self_q, self_k = self._queries.pop(block)
        grid = self._grid(block, q, extra)
        self._check_keys(block, k, self._context_tok)
        for rows, row in self._rows:
            maps = self._plan.segmenter and row and self._plan.segmenter.maps_of(row, self._size_lat)
            if maps and row:
                text = k[rows, : self._context_tok]
                cross = cross_attention_map(q[rows], text, attend.heads, row.length)
                maps.add(cross, self_q[rows], self_k[rows], grid, attend)
        return standing(q, k, v, extra) if standing else attend(q, k, v)

    def _grid(self, block: Block, q: Tensor, extra: dict[str, Any]) -> tuple[int, int]:
        """The block's token grid (hh, ww).

        Raises:
            ValueError: the tokens given are not the grid's.
        """
        hh, ww = extra["activations_shape"][2:4]
        if q.shape[:2] != (self._total_rows, hh * ww):
            raise self._changed(block, "tokens", q, f"{self._total_rows} x {hh * ww} ({ww}x{hh} grid)")
        return hh, ww

    def _check_keys(self, block: Block, k: Tensor, least: int) -> None:
        """Make sure that the keys which belong here are there; others' additions may stand behind them.

        Raises:
            ValueError: there are too few.
        """
        if k.shape[0] != self._total_rows or k.shape[1] < least:
            raise self._changed(block, "keys", k, f"{self._total_rows} x {least} or more")

    def _changed(self, block: Block, what: str, given: Tensor, expected: str) -> ValueError:
        there = "; ".join(neighbours(self._options, [block])) or "nothing that MagicFace knows of"
        return ValueError(
            f"MagicFace: block {block} was given {given.shape[0]} x {given.shape[1]} {what} instead of {expected}."
            f" Patched in there: {there}. Patches that change the tokens, as HyperTile and token merging do, cannot be"
            " used with MagicFace: remove it, or choose other blocks in MagicFaceSchedule"
        )


def _check_whole(plan: CallPlan, places: Sequence[Any], x: Tensor) -> None:
    """Make sure that the UNet is given all that each cond sees.

    Raises:
        ValueError: it is given a part: regions and areas would be of another place.
    """
    for row in (plan.known.get(place) for place in places):
        sees = plan.size_lat if row is None or row.area is None else row.area[:2]
        if tuple(x.shape[-2:]) != tuple(sees):
            raise ValueError(
                f"MagicFace: the UNet was called with a latent of {x.shape[-1]}x{x.shape[-2]} where the prompt sees"
                f" {sees[1]}x{sees[0]}: MagicFace cannot be used with a patch that cuts it into tiles; remove it"
            )
