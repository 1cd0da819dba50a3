"""How large masks are trimmed: in strips, by any radius, with progress. What trimming does is in test_masks.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.attention import trimming
from magicface.attention.trimming import FEATHER_PASSES, GROW_PASSES, feather, grow
from scenes import generator_of
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode


class CountNumbers(TorchDispatchMode):
    """Counts the numbers that operations give, of those without windows; pooling, whose work is hidden, is refused."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "pool" not in str(func)
        out = func(*args, **(kwargs or {}))
        self.numbers += out.numel() if isinstance(out, Tensor) else 0
        return out


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
radii = st.integers(1, 60)


def some_masks(seed: int, size: tuple[int, int], soft: bool) -> Tensor:
    """(2, H, W) float32."""
    masks = torch.rand(2, *size, generator=generator_of(seed))
    return masks if soft else (masks > 0.5).float()


def pooled_mean(mask: Tensor, radius: int) -> Tensor:
    """Feathering by sums taken one by one."""
    size, soft = 2 * radius + 1, mask[:, None]
    for _ in range(2):
        soft = avg_pool2d(soft, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)
        soft = avg_pool2d(soft, (1, size), stride=1, padding=(0, radius), count_include_pad=False)
    return soft[:, 0].clamp(0, 1)


def pooled_highest(mask: Tensor, radius: int) -> Tensor:
    return max_pool2d(mask[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]


@given(seed=st.integers(0, 2**32), size=sizes, radius=radii, soft=st.booleans(), strip=st.integers(1, 200))
def test_bits_are_those_of_pooling_whatever_the_strips(
    seed: int, size: tuple[int, int], radius: int, soft: bool, strip: int
) -> None:
    mask = some_masks(seed, size, soft)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trimming, "_STRIP_PX", strip)
        assert torch.equal(feather(mask, radius), pooled_mean(mask, radius))
        assert torch.equal(grow(mask, radius), pooled_highest(mask, radius))
        assert torch.equal(grow(mask, -radius), -pooled_highest(-mask, radius))


@given(seed=st.integers(0, 2**32), size=sizes, radius=radii, soft=st.booleans())
def test_running_sums_give_the_same_means(seed: int, size: tuple[int, int], radius: int, soft: bool) -> None:
    mask = some_masks(seed, size, soft)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trimming, "_MAX_SINGLE_SUMS", 0)
        found = feather(mask, radius)
    expected = pooled_mean(mask.double(), radius)
    assert found.dtype is torch.float32
    assert_close(found.double(), expected, rtol=0, atol=2e-7)
    assert torch.equal(found == 0, expected == 0)


def test_only_large_blurs_of_large_pictures_take_running_sums() -> None:
    large, usual = torch.empty(1, 3600, 3600, device="meta"), torch.empty(9, 1024, 1024, device="meta")
    assert trimming.uses_single_sums(usual, 255) and trimming.uses_single_sums(large, 20)
    assert not trimming.uses_single_sums(large, 50)


@pytest.mark.parametrize(("trim", "passes"), [(grow, GROW_PASSES), (feather, FEATHER_PASSES)])
def test_progress_is_told_of_every_pixel_and_may_stop_the_work(
    monkeypatch: pytest.MonkeyPatch, trim: Callable[..., Tensor], passes: int
) -> None:
    monkeypatch.setattr(trimming, "_STRIP_PX", 100)
    told: list[int] = []
    trim(torch.zeros(3, 20, 30), 4, told.append)
    assert sum(told) == passes * 3 * 20 * 30 and max(told) <= 100

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trim(torch.zeros(1, 20, 30), 4, stop)


@pytest.mark.parametrize("trim", [grow, feather])
def test_the_work_hardly_depends_on_the_radius(monkeypatch: pytest.MonkeyPatch, trim: Callable[..., Tensor]) -> None:
    """Counted in numbers that torch's operations give; by the radius' own ratio it would be 32."""
    monkeypatch.setattr(trimming, "_MAX_SINGLE_SUMS", 0)
    mask = some_masks(1, (1200, 1200), False)

    def work(radius: int) -> int:
        with CountNumbers() as counted:
            trim(mask, radius)
        return counted.numbers

    assert 0 < work(512) < 4 * work(16)
