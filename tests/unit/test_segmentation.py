"""Attention maps by token, compared with dense maps and loops over pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from magicface.attention.attend import TorchAttend
from magicface.attention.segmentation import (
    AttentionMaps,
    apply_self_attention,
    blur,
    cross_attention_map,
    mean_weights,
    power_average,
    upsample_and_blur,
)
from oracle import images, regions
from oracle.regions import BlockInput
from scenes import generator_of, normal
from torch import Tensor
from torch.testing import assert_close

grids = st.tuples(st.integers(1, 5), st.integers(1, 5))


class WidthWatchingAttend(TorchAttend):
    """Refuses values whose width differs from the keys', since ComfyUI's fast kernels do not support that."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        assert v.shape == k.shape and v.dtype == q.dtype and bias is None
        return super().__call__(q, k, v)


@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 2),
    heads=st.integers(1, 3),
    n=st.integers(1, 6),
    length=st.integers(1, 7),
    tiles=st.integers(1, 3),
)
def test_the_cross_attention_map_equals_the_loops(
    seed: int, images: int, heads: int, n: int, length: int, tiles: int
) -> None:
    """This tests C with columns summed modulo T; the repetitions differ, so that wrong columns would be noticed."""
    g = generator_of(seed)
    q, k = 2 * normal(g, images, n, 4 * heads), 2 * normal(g, images, length * tiles, 4 * heads)
    found = cross_attention_map(q, k, heads, length)
    assert found.dtype is torch.float32
    for image in range(images):
        expected = regions.cross_map(q[image], k[image], heads, length)
        assert_close(found[image].double(), expected, rtol=1e-5, atol=1e-6)


def test_tiled_prompt_has_the_map_of_the_prompt_itself() -> None:
    g = generator_of(1)
    q, k = normal(g, 1, 5, 8), normal(g, 1, 7, 8)
    once = cross_attention_map(q, k, 2, 7)
    assert_close(cross_attention_map(q, k.repeat(1, 3, 1), 2, 7), once)
    assert_close(once.sum(dim=-1), torch.ones(1, 5))


@given(seed=st.integers(0, 2**32), heads=st.integers(1, 3), n=st.integers(2, 7), columns=st.integers(1, 11))
def test_self_attention_smooths_as_its_dense_map(seed: int, heads: int, n: int, columns: int) -> None:
    """S X and (S X + 3 S S X) / 4, with column counts that are multiples of the head size (4) and that are not."""
    g = generator_of(seed)
    q, k = normal(g, 2, n, 4 * heads), normal(g, 2, n, 4 * heads)
    maps = torch.rand(2, n, columns, generator=g) * 10.0 ** torch.randint(-6, 3, (columns,), generator=g)
    attend = WidthWatchingAttend(heads)
    once, averaged = apply_self_attention(maps, q, k, attend), power_average(maps, q, k, attend)
    assert once.dtype is averaged.dtype is torch.float32
    for image in range(2):
        dense = regions.self_map(q[image], k[image], heads)
        assert_close(once[image].double(), dense @ maps[image].double(), rtol=1e-5, atol=1e-12)
        expected = regions.power_average(maps[image], dense)
        assert_close(averaged[image].double(), expected, rtol=1e-5, atol=1e-12)


def test_zero_columns_stay_zero() -> None:
    g = generator_of(2)
    q, k, maps = normal(g, 1, 4, 8), normal(g, 1, 4, 8), torch.rand(1, 4, 3, generator=g)
    maps[..., 1] = 0.0
    out = power_average(maps, q, k, TorchAttend(2))
    assert torch.equal(out[..., 1], torch.zeros(1, 4)) and torch.isfinite(out).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_faint_columns_survive_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    """Tokens with a millionth of the attention would vanish in float16 if they were not scaled up before."""
    g = generator_of(3)
    q, k = (normal(g, 1, 16, 8).to(dtype) for _ in range(2))
    strength = torch.tensor([1.0, 1e-3, 1e-6, 1e-9, 1e-20, 30.0])
    maps = (torch.rand(1, 16, 6, generator=g) + 0.1) * strength
    found = power_average(maps, q, k, TorchAttend(2))
    assert found.dtype is torch.float32
    expected = regions.power_average(maps[0], regions.self_map(q[0], k[0], 2))
    assert_close(found[0].double(), expected, rtol=tolerance, atol=0)


def test_the_cross_attention_map_of_half_precision_is_single_precision() -> None:
    g = generator_of(4)
    q, k = (6 * normal(g, 1, 5, 8)).half(), (6 * normal(g, 1, 9, 8)).half()
    found = cross_attention_map(q, k, 2, 9)
    assert_close(found[0].double(), regions.cross_map(q[0], k[0], 2, 9), rtol=1e-4, atol=1e-12)


@given(seed=st.integers(0, 2**32), size=grids, count=st.integers(1, 3))
def test_blurring_maps_equals_the_loops(seed: int, size: tuple[int, int], count: int) -> None:
    maps = torch.rand(2, count, *size, generator=generator_of(seed), dtype=torch.float64)
    for image in range(2):
        assert_close(blur(maps)[image], images.blur(maps[image]))
    flat = torch.full((1, 1, *size), 0.3)
    assert_close(blur(flat), flat)


def test_blurring_one_pixel_gives_the_kernel() -> None:
    """The kernel's weights: e^-1 beside, e^-2 diagonally, divided by (1 + 2 e^-1)^2."""
    maps = torch.zeros(1, 1, 5, 5)
    maps[0, 0, 2, 2] = 1.0
    out = blur(maps)[0, 0]
    assert out[2, 2].item() == pytest.approx(0.331911, rel=1e-5)
    assert out[2, 1].item() == out[1, 2].item() == pytest.approx(0.122103, rel=1e-5)
    assert out[3, 3].item() == pytest.approx(0.044919, rel=1e-4)
    assert out[0].sum().item() == 0.0


@given(seed=st.integers(0, 2**32), grid=grids, size=grids)
def test_weights_of_the_mean_equal_resizing_and_blurring(
    seed: int, grid: tuple[int, int], size: tuple[int, int]
) -> None:
    """The weights give the mean of a map after resizing and blurring, without either."""
    maps = torch.rand(1, 3, *grid, generator=generator_of(seed))
    assert_close(maps.flatten(2) @ mean_weights(grid, size), upsample_and_blur(maps, size).mean(dim=(2, 3)))


def some_block(g: torch.Generator, grid: tuple[int, int], heads: int, length: int, images: int) -> BlockInput:
    """A block's queries and keys for several images."""
    n, c = grid[0] * grid[1], 4 * heads
    q, k, text_q, text_k = (normal(g, images, rows, c) for rows in (n, n, n, length))
    return BlockInput(q, k, text_q, text_k, grid, heads)


def of_image(block: BlockInput, image: int) -> BlockInput:
    """One image of a block."""
    picked = {name: getattr(block, name)[image] for name in ("q", "k", "text_q", "text_k")}
    return replace(block, **picked)


def fill(maps: AttentionMaps, blocks: list[BlockInput], length: int) -> AttentionMaps:
    """Add all blocks to the maps."""
    for block in blocks:
        cross = cross_attention_map(block.text_q, block.text_k, block.heads, length)
        maps.add(cross, block.q, block.k, block.grid, TorchAttend(block.heads))
    return maps


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    size=grids,
    block_grids=st.lists(grids, min_size=1, max_size=3),
    length=st.integers(2, 6),
    tiles=st.integers(1, 2),
    second_start=st.booleans(),
)
def test_maps_of_several_blocks_equal_the_loops(
    seed: int, size: tuple[int, int], block_grids: list[tuple[int, int]], length: int, tiles: int, second_start: bool
) -> None:
    """A and F from blocks with other grids and heads, resized up or down, with one or two start tokens."""
    g = generator_of(seed)
    starts = [0, length - 1] if second_start else [0]
    blocks = [some_block(g, grid, 1 + number % 2, length * tiles, images=2) for number, grid in enumerate(block_grids)]
    every = fill(AttentionMaps(size, starts, every_token=True), blocks, length)
    two = fill(AttentionMaps(size, starts, every_token=False), blocks, length)
    assert every.blocks == two.blocks == len(blocks)
    for image in range(2):
        here = [regions.image_maps(of_image(block, image), size, length) for block in blocks]
        expected = regions.token_maps(here)
        assert_close(every.tokens[image].double(), expected, rtol=1e-4, atol=1e-5)
        expected = regions.background_maps(here, starts)
        assert_close(every.background[image].double(), expected, rtol=1e-4, atol=1e-5)
        assert_close(two.background[image].double(), expected, rtol=1e-4, atol=1e-5)


def test_upsampling_aligns_pixel_centres() -> None:
    """A 1 x 2 grid of two queries, each with one word, is resized to a width of four: shares of 3/4 and 1/4 between."""
    sharp = torch.tensor([[[40.0], [-40.0]]])  # each query attends to its own key only
    cross = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    maps = AttentionMaps((4, 4), [0], every_token=True)
    maps.add(cross.repeat(1, 2, 1), sharp.repeat(1, 2, 1), sharp.repeat(1, 2, 1), (2, 2), TorchAttend(1))
    rising = torch.tensor([0.0, 0.25, 0.75, 1.0])
    expected = images.blur(rising.repeat(2, 4, 1))[0] / 0.5
    assert_close(maps.tokens[0, 1].double(), expected, rtol=1e-5, atol=1e-5)
    assert_close(maps.background[0, 1].double(), expected, rtol=1e-5, atol=1e-5)
    assert_close(maps.tokens[0, 0].double(), expected.flip(1), rtol=1e-5, atol=1e-5)
