"""Names of transformer blocks, on the layouts of the supported families."""

from __future__ import annotations

import pytest
from magicface.attention.blocks import (
    PRESETS,
    Block,
    describe,
    injection_blocks,
    segmentation_blocks,
)

Part = tuple[str, int, int, int]


def layout_of(*parts: Part) -> tuple[Block, ...]:
    """Blocks in execution order from (stage, number, ratio, depth)."""
    return tuple(Block(stage, number, at, ratio) for stage, number, ratio, depth in parts for at in range(depth))


SD = layout_of(
    *(("input", number, ratio, 1) for number, ratio in ((1, 1), (2, 1), (4, 2), (5, 2), (7, 4), (8, 4))),
    ("middle", 0, 8, 1),
    *(("output", number, 4 >> (number - 3) // 3, 1) for number in range(3, 12)),
)
SDXL = layout_of(
    *(("input", number, ratio, depth) for number, ratio, depth in ((4, 2, 2), (5, 2, 2), (7, 4, 10), (8, 4, 10))),
    ("middle", 0, 4, 10),
    *(("output", number, *((4, 10) if number < 3 else (2, 2))) for number in range(6)),
)


def names(blocks: tuple[Block, ...]) -> list[str]:
    """The blocks' names as users write them."""
    return [str(block) for block in blocks]


def numbers(blocks: tuple[Block, ...]) -> set[tuple[str, int]]:
    """Stage and number of the blocks, without the depth."""
    return {(block.stage, block.number) for block in blocks}


def test_auto_injection_blocks_of_sd_are_the_authors() -> None:
    assert len(SD) == 16
    assert injection_blocks("auto", SD) == SD[10:]
    assert names(SD[10:]) == [f"output.{number}.0" for number in range(6, 12)]


def test_auto_injection_blocks_of_sdxl_are_all_decoder_blocks() -> None:
    chosen = injection_blocks("auto", SDXL)
    assert (len(chosen), len(SDXL)) == (36, 70)
    assert numbers(chosen) == {("output", number) for number in range(6)}
    assert chosen == SDXL[34:]


def test_auto_segmentation_blocks_of_sdxl() -> None:
    expected = "input.7.9 input.8.9 middle.0.9 output.0.9 output.1.9 output.3.1"
    assert names(segmentation_blocks("auto", SDXL)) == expected.split()


def test_auto_segmentation_leaves_out_blocks_at_the_latents_size() -> None:
    assert segmentation_blocks("auto", SD) == tuple(block for block in SD if block.ratio in (2, 4, 8))
    assert len(segmentation_blocks("auto", SD)) == 11
    assert segmentation_blocks("all", SDXL) == SDXL
    deep = layout_of(("input", 1, 1, 1), ("input", 2, 2, 1), ("middle", 0, 16, 1))
    assert names(segmentation_blocks("auto", deep)) == ["input.2.0"]
    assert names(segmentation_blocks("all", deep)) == ["input.2.0"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("output.3", ["output.3.0", "output.3.1"]),
        ("output.3.1", ["output.3.1"]),
        ("output.3-5.0", ["output.3.0", "output.4.0", "output.5.0"]),
        ("output.0.8-9", ["output.0.8", "output.0.9"]),
        ("output.0.8-30", ["output.0.8", "output.0.9"]),
        ("output.2-3.1-2", ["output.2.1", "output.2.2", "output.3.1"]),
        ("middle.0.4", ["middle.0.4"]),
        ("input.4, input.5.1", ["input.4.0", "input.4.1", "input.5.1"]),
        ("Output.3 ,  INPUT.4.0", ["input.4.0", "output.3.0", "output.3.1"]),  # in execution order
        ("output.3,output.3-3,output.3.0", ["output.3.0", "output.3.1"]),  # each once
    ],
)
def test_names_and_ranges(spec: str, expected: list[str]) -> None:
    assert names(injection_blocks(spec, SDXL)) == expected
    assert names(segmentation_blocks(spec, SDXL)) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", SD),
        ("encoder", SD[:6]),
        ("input", SD[:6]),
        ("middle", SD[6:7]),
        ("decoder", SD[7:]),
        ("output", SD[7:]),
        ("finest", SD[13:]),
        ("finest, middle", SD[6:7] + SD[13:]),
        ("auto, input.1", SD[:1] + SD[10:]),
    ],
)
def test_presets(spec: str, expected: tuple[Block, ...]) -> None:
    assert injection_blocks(spec, SD) == expected


def test_every_preset_offered_is_known() -> None:
    for preset in PRESETS:
        assert injection_blocks(preset, SDXL)
    for preset in PRESETS:
        assert segmentation_blocks(preset, SDXL)


def test_finest_of_sdxl() -> None:
    assert names(injection_blocks("finest", SDXL)) == [f"output.{number}.{at}" for number in (3, 4, 5) for at in (0, 1)]


@pytest.mark.parametrize(
    ("spec", "culprit"),
    [
        ("output.6", "output.6"),
        ("output.3.2", "output.3.2"),
        ("input.6", "input.6"),
        ("output.5-3", "output.5-3"),
        ("output.3,", ""),
        ("", ""),
        ("auto, up.1", "up.1"),
        ("output.x", "output.x"),
        ("output.3.1.0", "output.3.1.0"),
        ("output.-3", "output.-3"),
        ("decoders", "decoders"),
    ],
)
def test_unknown_names_are_refused_with_a_list_of_the_known_ones(spec: str, culprit: str) -> None:
    for choose in (injection_blocks, segmentation_blocks):
        with pytest.raises(ValueError) as error:
            choose(spec, SDXL)
        message = str(error.value)
        assert repr(culprit) in message
        for there in (*PRESETS, "input.4 (2 deep)", "middle.0 (10 deep)", "output.5 (2 deep)"):
            assert there in message


def test_segmentation_blocks_only_at_the_latents_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'output\.9-11'.*own size.*'auto'"):
        segmentation_blocks("output.9-11", SD)
    assert names(segmentation_blocks("output.8-11", SD)) == ["output.8.0"]
    with pytest.raises(ValueError, match="finest"):
        segmentation_blocks("finest", SD)


def test_a_block_has_a_key_and_a_name() -> None:
    block = Block("output", 3, 1, 2)
    assert (block.key, str(block)) == (("output", 3, 1), "output.3.1")
    assert describe(SD[5:8]) == "input.8 (1 deep), middle.0 (1 deep), output.3 (1 deep)"
