"""The oracle's quick forms equal its loops, and the oracle imports nothing from the product."""

from __future__ import annotations

import ast
from pathlib import Path

import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import attention, images
from scenes import generator_of, normal, some_mask
from torch.testing import assert_close

grids = st.tuples(st.integers(1, 6), st.integers(1, 6))


@given(
    seed=st.integers(0, 2**32), heads=st.integers(1, 3), n=st.integers(1, 6), m=st.integers(1, 9), masked=st.booleans()
)
def test_quick_attention_maps_equal_the_loops(seed: int, heads: int, n: int, m: int, masked: bool) -> None:
    """This includes biases of minus infinity."""
    g = generator_of(seed)
    q, k = 2 * normal(g, n, 4 * heads), 2 * normal(g, m, 4 * heads)
    bias = some_mask(g, m).double().log() if masked else None
    expected = attention.attention_maps(q, k, heads, bias)
    assert_close(attention.quick_attention_maps(q, k, heads, bias), expected, rtol=1e-12, atol=1e-15)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), grid=grids, size=grids, count=st.integers(1, 3))
def test_maps_by_matrix_equal_the_loops(seed: int, grid: tuple[int, int], size: tuple[int, int], count: int) -> None:
    maps = normal(generator_of(seed), count, *grid)
    expected = images.blur(images.bilinear(maps, size))
    assert_close(images.upsample_and_blur(maps, size), expected, rtol=1e-12, atol=1e-13)


def test_a_query_attends_to_its_visible_concepts_only() -> None:
    """Attention of queries grouped by visible concepts equals attention query by query."""
    g = generator_of(1)
    q, k, v = (normal(g, 5, 8) for _ in range(3))
    views = [attention.View(normal(g, 3, 8), normal(g, 3, 8), some_mask(g, 3), 1.0) for _ in range(2)]
    visible = [[0], [], [0, 1], [0], [1]]
    found = attention.inject(q, k, v, [[view] for view in views], visible, 2)
    for query, concepts in enumerate(visible):
        seen = [[views[index]] for index in concepts]
        alone = attention.with_references(q[query : query + 1], k, v, seen, 2, target_tok=5)
        assert_close(found[query], alone[0], rtol=1e-12, atol=1e-15)


def test_the_oracle_imports_nothing_from_the_product() -> None:
    files = sorted(Path(str(oracle.__file__)).parent.glob("*.py"))
    assert len(files) == 5
    allowed = {"__future__", "collections", "dataclasses", "functools", "math", "typing", "torch", "comfy"}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            else:
                assert not isinstance(node, ast.ImportFrom) or node.level == 1
                continue
            assert {name.split(".")[0] for name in names} <= allowed
