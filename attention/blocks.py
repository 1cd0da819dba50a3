"""Names of a UNet's transformer blocks, and choosing among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_ITEM = re.compile(r"(input|middle|output)(?:\.(\d+)(?:-(\d+))?(?:\.(\d+)(?:-(\d+))?)?)?")
_SEGMENTED_RATIOS = (2, 4, 8)
PRESETS = ("auto", "all", "encoder", "decoder", "finest")


@dataclass(frozen=True)
class Block:
    """One BasicTransformerBlock.

    Attributes:
        stage: "input", "middle" or "output".
        number: index among the stage's blocks.
        depth: index among the transformer blocks there.
        ratio: latent size / token grid: 1, 2, 4 or 8.
    """

    stage: str
    number: int
    depth: int
    ratio: int

    @property
    def key(self) -> tuple[str, int, int]:
        """The name that UNet patches know it by."""
        return self.stage, self.number, self.depth

    def __str__(self) -> str:
        return f"{self.stage}.{self.number}.{self.depth}"


def injection_blocks(spec: str, layout: Sequence[Block]) -> tuple[Block, ...]:
    """Blocks that look at references. "auto": the decoder at the two finest attention resolutions (METHOD 6)."""
    finest = sorted({block.ratio for block in layout})[:2]
    auto = [block for block in layout if block.stage == "output" and block.ratio in finest]
    return _select(spec, layout, auto)


def segmentation_blocks(spec: str, layout: Sequence[Block]) -> tuple[Block, ...]:
    """Blocks whose attention finds the regions, r = 1 never among them.

    "auto": all with r 2, 4 or 8 (METHOD 3); of UNets whose transformers are several blocks deep, as SDXL's are, the
    last block of each with r 4 or 8, but for the decoder's last one, and of the decoder's first with r 2: a tenth of
    the cost, and nearly the same regions (docs/evaluation.md).

    Raises:
        ValueError: unknown name, or nothing but r = 1 chosen.
    """
    usable = [block for block in layout if block.ratio in _SEGMENTED_RATIOS]
    chosen = tuple(block for block in _select(spec, layout, _telling(usable)) if block in usable)
    if not chosen:
        raise ValueError(
            f"{spec!r} names only blocks at the latent's own size, which segmentation does not read; use 'auto'"
        )
    return chosen


def _telling(usable: Sequence[Block]) -> list[Block]:
    """What stands for all usable blocks: they themselves, or some of the deep ones."""
    last = {(block.stage, block.number): block for block in usable}
    if len(last) == len(usable):
        return list(usable)
    coarse = [block for block in last.values() if block.ratio > 2]
    fine = [block for block in last.values() if block.ratio == 2 and block.stage == "output"]
    return coarse[:-1] + fine[:1]


def recorded_blocks(spec: str, injection: Sequence[Block]) -> tuple[Block, ...]:
    """Of the injected blocks those whose attention is kept. "auto": the first of the finest resolution among them.

    Raises:
        ValueError: unknown name, or a block that is not injected.
    """
    finest = min(block.ratio for block in injection)
    return _select(spec, injection, [block for block in injection if block.ratio == finest][:1])


def _select(spec: str, layout: Sequence[Block], auto: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks that a comma-separated list of names and presets stands for, in execution order.

    A name is `stage`, `stage.number`, `stage.first-last`, each number or range optionally followed by
    `.depth` or `.first-last` within: "output.3-5", "middle", "output.0.2-9".

    Raises:
        ValueError: an unknown name, with those that this UNet has.
    """
    presets = {
        "auto": auto,
        "all": layout,
        "encoder": [block for block in layout if block.stage == "input"],
        "decoder": [block for block in layout if block.stage == "output"],
        "finest": [b for b in layout if b.stage == "output" and b.ratio == min(x.ratio for x in layout)],
    }
    chosen: set[Block] = set()
    for item in (part.strip().lower() for part in spec.split(",")):
        found = presets[item] if item in presets else _named(item, layout)
        if not found:
            raise ValueError(f"no block {item!r}; there are {describe(layout)} and the presets {', '.join(presets)}")
        chosen.update(found)
    return tuple(block for block in layout if block in chosen)


def _named(item: str, layout: Sequence[Block]) -> list[Block]:
    match = _ITEM.fullmatch(item)
    if match is None:
        return []
    stage, first, last, depth_first, depth_last = match.groups()
    numbers, depths = _span(first, last), _span(depth_first, depth_last)
    return [
        block
        for block in layout
        if block.stage == stage
        and (numbers is None or block.number in numbers)
        and (depths is None or block.depth in depths)
    ]


def _span(first: str | None, last: str | None) -> range | None:
    return None if first is None else range(int(first), int(last or first) + 1)


def describe(layout: Sequence[Block]) -> str:
    """Names of a UNet's blocks for a message: "input.4 (2 deep), ..."."""
    depths: dict[str, int] = {}
    for block in layout:
        depths[f"{block.stage}.{block.number}"] = block.depth + 1
    return ", ".join(f"{name} ({depth} deep)" for name, depth in depths.items())
