"""The attention function and the joint softmax over own and reference tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.attention.attend import PaddedQueries, TorchAttend, joint_attention
from magicface.attention.kv import select
from oracle import attention as oracle
from scenes import as_concept, generator_of, normal, some_view
from torch import Tensor
from torch.testing import assert_close


@given(seed=st.integers(0, 2**32), heads=st.integers(1, 3), n=st.integers(1, 9), m=st.integers(1, 9))
def test_torch_attention_is_softmax_attention(seed: int, heads: int, n: int, m: int) -> None:
    g = generator_of(seed)
    q, k, v = normal(g, 2, n, heads * 4), normal(g, 2, m, heads * 4), normal(g, 2, m, heads * 4)
    bias = normal(g, m)
    found, found_plain = TorchAttend(heads)(q, k, v, bias), TorchAttend(heads)(q, k, v)
    for image in range(2):
        maps = oracle.attention_maps(q[image], k[image], heads, bias)
        assert_close(found[image], oracle.apply_maps(maps, v[image]))
        maps = oracle.attention_maps(q[image], k[image], heads)
        assert_close(found_plain[image], oracle.apply_maps(maps, v[image]))


@given(seed=st.integers(0, 2**32), n=st.integers(1, 6), extra=st.integers(0, 3), m=st.integers(1, 7))
def test_ordinary_attention_as_own_part_changes_nothing(seed: int, n: int, extra: int, m: int) -> None:
    g = generator_of(seed)
    attend = TorchAttend(2)
    q, k, v = normal(g, 2, n, 8), normal(g, 2, n + extra, 8), normal(g, 2, n + extra, 8)
    ref_k, ref_v, bias = normal(g, 1, m, 8), normal(g, 1, m, 8), normal(g, m)
    ordinary = joint_attention(attend, q, k, v, ref_k, ref_v, bias)
    assert_close(joint_attention(attend, q, k, v, ref_k, ref_v, bias, own=attend(q, k, v)), ordinary)


@given(seed=st.integers(0, 2**32), n=st.integers(1, 5), m=st.integers(1, 6))
def test_references_have_the_same_share_with_another_own_part(seed: int, n: int, m: int) -> None:
    g = generator_of(seed)
    q, k, v, own = (normal(g, 2, n, 8) for _ in range(4))
    view = some_view(g, m, 8)
    references = select([as_concept([view])], [0], n)
    assert references is not None
    ref_k, ref_v, bias = references
    found = joint_attention(TorchAttend(2), q, k, v, ref_k, ref_v, bias.to(q), own)
    for image in range(2):
        expected = oracle.with_references(q[image], k[image], v[image], [[view]], 2, own[image])
        assert_close(found[image], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2])
def test_shares_are_those_of_the_softmax(heads: int) -> None:
    """With zero queries each key's score is its bias: two own tokens and a reference token that counts three times."""
    q, k = torch.zeros(1, 2, 4), torch.ones(1, 2, 4)
    v, ref_k, ref_v = torch.zeros(1, 2, 4), torch.ones(1, 1, 4), torch.full((1, 1, 4), 5.0)
    bias = torch.tensor([math.log(3.0)])
    out = joint_attention(TorchAttend(heads), q, k, v, ref_k, ref_v, bias)
    assert_close(out, torch.full((1, 2, 4), 5.0 * 3 / 5))
    own = torch.full((1, 2, 4), 10.0)
    out = joint_attention(TorchAttend(heads), q, k, v, ref_k, ref_v, bias, own)
    assert_close(out, torch.full((1, 2, 4), 5.0 * 3 / 5 + 10.0 * 2 / 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_dtype_and_its_precision(dtype: torch.dtype) -> None:
    g = generator_of(5)
    q, k, v = (normal(g, 1, 6, 8).to(dtype) for _ in range(3))
    ref_k, ref_v = normal(g, 1, 4, 8).to(dtype), normal(g, 1, 4, 8).to(dtype)
    bias = normal(g, 4).to(dtype)
    found = joint_attention(TorchAttend(2), q, k, v, ref_k, ref_v, bias)
    assert found.dtype is dtype
    maps = oracle.attention_maps(q[0], torch.cat((k[0], ref_k[0])), 2, torch.cat((torch.zeros(6), bias.double())))
    tolerance = max(4 * torch.finfo(dtype).eps, 1e-12)
    assert_close(
        found[0].double(), oracle.apply_maps(maps, torch.cat((v[0], ref_v[0]))), rtol=tolerance, atol=tolerance
    )


@given(seed=st.integers(0, 2**32), n=st.integers(1, 40), step=st.integers(1, 9))
def test_padding_queries_changes_nothing(seed: int, n: int, step: int) -> None:
    g = generator_of(seed)
    q, k, v, bias = normal(g, 1, n, 8), normal(g, 1, 7, 8), normal(g, 1, 7, 8), normal(g, 7)
    lengths = []

    class Counting(TorchAttend):
        def __call__(self, q: Tensor, *given: Any) -> Tensor:
            lengths.append(q.shape[1])
            return super().__call__(q, *given)

    padded = PaddedQueries(Counting(2), step)
    assert_close(padded(q, k, v), TorchAttend(2)(q, k, v))
    assert_close(padded(q, k, v, bias), TorchAttend(2)(q, k, v, bias))
    assert padded.heads == 2 and lengths == [-(-n // step) * step] * 2
