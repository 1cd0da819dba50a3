"""Names of a UNet's transformer blocks, and how a user chooses among them."""

import re
from collections.abc import Callable, Sequence
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
        """The key under which UNet patches name it."""
        return self.stage, self.number, self.depth

    def __str__(self) -> str:
        return f"{self.stage}.{self.number}.{self.depth}"


def injection_blocks(spec: str, layout: Sequence[Block]) -> tuple[Block, ...]:
    """Blocks that attend to references. "auto": the decoder at the two finest resolutions that have attention.

    Source: docs/method.md#schedule.

    Raises:
        ValueError: unknown name.
    """
    finest = sorted({block.ratio for block in layout})[:2]
    auto = [block for block in layout if block.stage == "output" and block.ratio in finest]
    return _select(spec, layout, auto)


def segmentation_blocks(spec: str, layout: Sequence[Block]) -> tuple[Block, ...]:
    """Blocks whose attention finds the regions; blocks with r = 1 are never among them.

    "auto": `default_segmentation_blocks`.

    Raises:
        ValueError: unknown name, or only blocks with r = 1 chosen.
    """
    return _mapped(spec, layout, default_segmentation_blocks)


def concept_mask_blocks(spec: str, layout: Sequence[Block]) -> tuple[Block, ...]:
    """Blocks whose attention finds a concept in a picture; blocks with r = 1 are never among them.

    "auto": `default_concept_mask_blocks`.

    Raises:
        ValueError: unknown name, or only blocks with r = 1 chosen.
    """
    return _mapped(spec, layout, default_concept_mask_blocks)


def _mapped(
    spec: str, layout: Sequence[Block], auto: Callable[[Sequence[Block]], Sequence[Block]]
) -> tuple[Block, ...]:
    usable = [block for block in layout if block.ratio in _SEGMENTED_RATIOS]
    chosen = tuple(block for block in _select(spec, layout, auto(usable)) if block in usable)
    if not chosen:
        raise ValueError(
            f"{spec!r} names only blocks at the latent's own size, which segmentation does not read; use 'auto'"
        )
    return chosen


def default_segmentation_blocks(usable: Sequence[Block]) -> list[Block]:
    """All usable blocks of UNets with one block a transformer (SD 1.x and 2.x), as in the authors' program.

    Of UNets with deep transformers (SDXL): of each transformer with r 4 or 8 its last block, without the decoder's
    last such transformer, and the last block of the decoder's first transformer with r 2. That takes a tenth of the
    time and gives nearly the same regions (docs/evaluation.md).
    """
    last = {(block.stage, block.number): block for block in usable}
    if len(last) == len(usable):
        return list(usable)
    coarse = [block for block in last.values() if block.ratio > 2]
    fine = [block for block in last.values() if block.ratio == 2 and block.stage == "output"]
    return coarse[:-1] + fine[:1]


def default_concept_mask_blocks(usable: Sequence[Block]) -> list[Block]:
    """At the finest usable resolution, the encoder's last block and the last of the decoder's first transformer.

    Of the blocks at that resolution they are nearest to the UNet's middle. They find concepts better than all of them
    together, and better than coarser ones (docs/evaluation.md#masks-from-words).
    """
    finest = [block for block in usable if block.ratio == min(block.ratio for block in usable)]
    encoder = [block for block in finest if block.stage == "input"]
    decoder = [block for block in finest if block.stage == "output"]
    return encoder[-1:] + [block for block in decoder if block.number == decoder[0].number][-1:]


def recorded_blocks(spec: str, injection: Sequence[Block]) -> tuple[Block, ...]:
    """Injection blocks of which attention snapshots are taken. "auto": the first one at the finest resolution.

    Raises:
        ValueError: unknown name, or a block that is no injection block.
    """
    finest = min(block.ratio for block in injection)
    return _select(spec, injection, [block for block in injection if block.ratio == finest][:1])


def _select(spec: str, layout: Sequence[Block], auto: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks named by a comma-separated list of names and presets, in execution order.

    A name is `stage`, `stage.number`, `stage.first-last`, each number or range optionally followed by
    `.depth` or `.first-last` within: "output.3-5", "middle", "output.0.2-9".

    Raises:
        ValueError: an unknown name; the message lists the names of this UNet.
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
    """List a UNet's blocks for a message: "input.4 (2 deep), ..."."""
    depths: dict[str, int] = {}
    for block in layout:
        depths[f"{block.stage}.{block.number}"] = block.depth + 1
    return ", ".join(f"{name} ({depth} deep)" for name, depth in depths.items())
