"""One UNet call: its self-attention attends to the references, and its attention maps go to the region finder."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...attention.blocks import Block
from ...attention.injection import RSA, InjectionRule
from ...attention.schedule import Stage
from ...attention.segmentation import AttentionMaps, cross_attention_map
from ...attention.snapshot import AttentionSnapshot
from ..conditioning.roles import CondRow
from ..errors import SamplingError
from ..families.unet import Patch, present_patch, token_grid, with_attention
from .evaluation import CondBatch
from .host_attention import HostAttention
from .other_patches import other_patches
from .windows import images_of

QKV = tuple[Tensor, Tensor, Tensor]
Attention = Callable[[Block, Patch | None, Tensor, Tensor, Tensor, dict[str, Any]], Tensor]


class UNetCall:
    """The patches of one UNet call of a batch, with input x (rows, ch, H, W) and text (rows, T', width).

    Raises:
        SamplingError: the UNet is called for a part of what its conds see.
    """

    def __init__(
        self,
        batch: CondBatch,
        injection_blocks: Sequence[Block],
        x: Tensor,
        context: Tensor | None,
        options: dict[str, Any],
    ) -> None:
        self._batch, self._options = batch, options
        self._injection_blocks = injection_blocks
        self._map_blocks = () if batch.finder is None else batch.finder.blocks
        cond_keys = list(zip(options.get("cond_or_uncond", ()), options.get("uuids", ()), strict=False))
        count, rest = divmod(x.shape[0], max(1, len(cond_keys)))
        self._images = None if batch.images is None else images_of(count, batch.evaluation.shape[0], options)
        if rest or (self._images is None and count != batch.shape[0]):
            cond_keys = []
            batch.findings.add(
                "another node sends rows through the UNet for which it is not known which images and prompts they are"
                " of. MagicFace leaves these calls alone."
            )
        self._rows: list[tuple[slice, CondRow | None]] = [
            (slice(i * count, (i + 1) * count), batch.conds.get(key)) for i, key in enumerate(cond_keys)
        ]
        self._maps: dict[int, AttentionMaps | None] = {}
        self._mapped_blocks: set[Block] = set()
        self._total_rows = x.shape[0]
        self._size_lat = x.shape[-2:]
        self._context_tok = 0 if context is None else context.shape[1]
        self._self_queries: dict[Block, tuple[Tensor, Tensor]] = {}
        self._check_whole()

    def patched_options(self) -> dict[str, Any]:
        """A copy of the call's options with the method's attention around whatever other nodes put there."""
        attn1_blocks = dict.fromkeys([*self._injection_blocks, *self._map_blocks])
        return with_attention(
            self._options,
            {
                "attn1": {block: self._patch(self._self_attention, "attn1", block) for block in attn1_blocks},
                "attn2": {block: self._patch(self._cross_attention, "attn2", block) for block in self._map_blocks},
            },
        )

    def _patch(self, attention: Attention, kind: str, block: Block) -> Patch:
        inner = present_patch(self._options, kind, block)

        def patch(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
            if self._is_of_some_rows(q, extra_options):
                return inner(q, k, v, extra_options) if inner else HostAttention(extra_options)(q, k, v)
            return attention(block, inner, q, k, v, extra_options)

        return patch

    def _self_attention(
        self, block: Block, inner: Patch | None, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]
    ) -> Tensor:
        attend = HostAttention(extra)
        grid = self._grid(block, q, extra)
        self._check_keys(block, k, q.shape[1])
        if block in self._map_blocks:
            self._self_queries[block] = q, k[:, : q.shape[1]]  # own keys: other nodes' additions are behind them
        injected = [(rows, row) for rows, row in self._rows if row is not None and self._is_injected(row)]
        if not injected or block not in self._injection_blocks:
            return inner(q, k, v, extra) if inner else attend(q, k, v)

        own = inner(q, k, v, extra) if inner else None
        out = torch.empty_like(q) if own is None else own.clone()
        if own is None:
            for rows, row in self._rows:
                if row is None or not self._is_injected(row):
                    out[rows] = attend(q[rows], k[rows], v[rows])
        for rows, row in injected:
            own_rows = None if own is None else own[rows]
            out[rows] = self._inject(block, grid, row, attend, (q[rows], k[rows], v[rows]), own_rows)
        return out

    def _is_injected(self, row: CondRow) -> bool:
        return row.role == "positive" and row.hooks in self._batch.evaluation.kv

    def _inject(
        self, block: Block, grid: tuple[int, int], row: CondRow, attend: HostAttention, qkv: QKV, own: Tensor | None
    ) -> Tensor:
        """The rows (b, n, c) of one cond, by the stage's injection rule."""
        batch, (q, k, _) = self._batch, qkv
        batch.evaluation.attended = True
        kv = tuple(concept and concept.to(q.device) for concept in batch.evaluation.kv[row.hooks][block])
        rule = self._rule(row, grid, q)
        whole = q.shape[0] == batch.evaluation.shape[0]
        if batch.recorder is not None and whole and row is self._recorded_row() and batch.recorder.wants(block):
            snapshot = AttentionSnapshot(q, k[:, : q.shape[1]], kv, rule, grid, attend.heads)
            batch.recorder.add(block, batch.evaluation.stage, snapshot)
        return rule(attend, *qkv, kv, own)

    def _recorded_row(self) -> CondRow | None:
        """The cond whose attention is recorded: the first positive one that sees the whole picture."""
        whole = (row for row in self._batch.conds.values() if row.role == "positive" and row.area is None)
        return next(whole, None)

    def _rule(self, row: CondRow, grid: tuple[int, int], q: Tensor) -> InjectionRule:
        """RSA; RBA in the blend stage, where there are regions and it is known which images these rows are."""
        evaluation = self._batch.evaluation
        if evaluation.stage is Stage.BLEND and evaluation.steering is not None and self._images is not None:
            return evaluation.steering.rule(row.area, grid, q.device, self._images, evaluation.places)
        if evaluation.places is not None and self._images is not None:
            return evaluation.places.rule(row.area, grid, q.device, self._images)
        return RSA

    def _cross_attention(
        self, block: Block, inner: Patch | None, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]
    ) -> Tensor:
        attend = HostAttention(extra)
        if block not in self._self_queries:  # another node calls it again; only the first call after attn1 counts
            return inner(q, k, v, extra) if inner else attend(q, k, v)
        self_q, self_k = self._self_queries.pop(block)
        grid = self._grid(block, q, extra)
        self._check_text(block, k)
        if block in self._mapped_blocks:  # another node sends something of its own through the UNet first
            self._maps.clear()
            self._mapped_blocks.clear()
        self._mapped_blocks.add(block)
        for index, (rows, row) in enumerate(self._rows):
            maps = self._maps_of(index, row)
            if maps is not None and row is not None:
                text = k[rows, : self._context_tok]
                cross = cross_attention_map(q[rows], text, attend.heads, row.length)
                maps.add(cross, self_q[rows], self_k[rows], grid, attend)
        return inner(q, k, v, extra) if inner else attend(q, k, v)

    def _maps_of(self, index: int, row: CondRow | None) -> AttentionMaps | None:
        """What the maps of these rows are added to in this pass of the UNet."""
        finder = self._batch.finder
        if finder is None or row is None or self._images is None:
            return None
        if index not in self._maps:
            self._maps[index] = finder.new_maps(row, self._size_lat, self._images)
        return self._maps[index]

    def _is_of_some_rows(self, q: Tensor, extra: dict[str, Any]) -> bool:
        """Whether another node calls the attention again, for the tokens of some rows only: that is its own."""
        hh, ww = token_grid(extra)
        return q.shape[0] < self._total_rows and q.shape[1] == hh * ww

    def _grid(self, block: Block, q: Tensor, extra: dict[str, Any]) -> tuple[int, int]:
        """The block's token grid (hh, ww).

        Raises:
            SamplingError: the number of tokens is not the grid's.
        """
        hh, ww = token_grid(extra)
        if q.shape[0] > self._total_rows and q.shape[1] == hh * ww:
            raise SamplingError(
                f"MagicFace: block {block} was given {q.shape[0]} rows instead of {self._total_rows}. Patched in there:"
                f" {self._patched_in(block)}. Regional prompting by attention, which repeats rows, cannot be used with"
                " MagicFace: use Conditioning (Set Mask) and Conditioning (Combine) instead"
            )
        if q.shape[:2] != (self._total_rows, hh * ww):
            raise self._changed_tokens(block, "tokens", q, f"{self._total_rows} x {hh * ww} ({ww}x{hh} grid)")
        return hh, ww

    def _check_keys(self, block: Block, k: Tensor, expected: int) -> None:
        """Make sure that no keys are missing; other nodes may have appended some.

        Raises:
            SamplingError: some are missing.
        """
        if k.shape[0] != self._total_rows or k.shape[1] < expected:
            raise self._changed_tokens(block, "keys", k, f"{self._total_rows} x {expected} or more")

    def _check_text(self, block: Block, k: Tensor) -> None:
        """Make sure that no keys of the text are missing, or words would be elsewhere; others may be appended.

        Raises:
            SamplingError: some are missing.
        """
        if k.shape[0] != self._total_rows or k.shape[1] < self._context_tok:
            raise SamplingError(
                f"MagicFace: block {block} was given {k.shape[0]} x {k.shape[1]} keys of the text instead of"
                f" {self._total_rows} x {self._context_tok} or more. Patched in there: {self._patched_in(block)}."
                " Patches that take keys of the text away, as some do for negative weights of words, cannot be used"
                " with MagicFace: remove that node, and encode the prompts without such weights"
            )

    def _patched_in(self, block: Block) -> str:
        return "; ".join(other_patches(self._options, [block])) or "nothing that MagicFace knows of"

    def _changed_tokens(self, block: Block, what: str, given: Tensor, expected: str) -> SamplingError:
        return SamplingError(
            f"MagicFace: block {block} was given {given.shape[0]} x {given.shape[1]} {what} instead of {expected}."
            f" Patched in there: {self._patched_in(block)}. Patches that change the tokens, as HyperTile and token"
            " merging do, cannot be used with MagicFace: remove it, or choose other blocks in MagicFace Schedule"
        )

    def _check_whole(self) -> None:
        """Make sure that the UNet is given all that each cond sees, or regions and areas would be of another place.

        Raises:
            SamplingError: it is given a part.
        """
        for _, row in self._rows:
            seen = self._batch.shape[-2:] if row is None or row.area is None else row.area[:2]
            if tuple(self._size_lat) != tuple(seen):
                raise SamplingError(
                    f"MagicFace: the UNet was called with a latent of {self._size_lat[-1]}x{self._size_lat[-2]}, but"
                    f" the prompt covers {seen[1]}x{seen[0]}: MagicFace cannot be used with a patch that cuts the"
                    " latent into tiles; remove it"
                )
