"""Other ways to compute the same, compared with the one in use, on attention of the narrow shape's size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.benchmark import Timer

from devtools.incore import load_pack

from .scene import SHAPES, Scene
from .tables import ways_table

# n tokens, heads of 64: SDXL's two resolutions in the narrow shape.
GRIDS = {"r = 2": (1024, 2), "r = 4": (256, 4)}
HEAD, REFERENCES, TOKENS = 64, 3, 77
TRIES = 15
MAX_ERROR = 1e-4  # of the largest value

Way = Callable[[], Tensor]
Row = tuple[str, float, float, float]


def attention_of(n: int, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k, v of a target; k, v, bias of half-covered references. The bias is (m,), the rest (1, heads, tokens, 64)."""
    generator = torch.Generator().manual_seed(0)
    m = REFERENCES * n // 2
    q, k, v = (torch.randn((1, heads, n, HEAD), generator=generator) for _ in range(3))
    ref_k, ref_v = (torch.randn((1, heads, m, HEAD), generator=generator) for _ in range(2))
    return q, k, v, ref_k, ref_v, torch.full((m,), 1.5)


def ways_of_rsa(n: int, heads: int) -> dict[str, Way]:
    """RSA: a joint softmax over the target's tokens and the references'."""
    q, k, v, ref_k, ref_v, ref_bias = attention_of(n, heads)

    def biased() -> Tensor:
        keys, values = torch.cat((k, ref_k), dim=2), torch.cat((v, ref_v), dim=2)
        bias = torch.cat((ref_bias.new_zeros(n), ref_bias))
        return scaled_dot_product_attention(q, keys, values, attn_mask=bias[None, None, None])

    def channel() -> Tensor:
        # An extra channel holds the bias. The kernel needs widths that are multiples of 8, and values as wide as keys.
        width, scale = HEAD + 8, HEAD**-0.5
        longer = pad(q, (0, 8))
        longer[..., HEAD] = 1 / scale
        keys, values = (pad(torch.cat(pair, dim=2), (0, 8)) for pair in ((k, ref_k), (v, ref_v)))
        keys[:, :, n:, HEAD] = ref_bias
        assert keys.shape[-1] == width
        return scaled_dot_product_attention(longer, keys, values, scale=scale)[..., :HEAD]

    def merged() -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        (own, own_sum), (refs, refs_sum) = flash(q, k, v), flash(q, ref_k, ref_v)
        share = torch.sigmoid(refs_sum + float(ref_bias[0]) - own_sum)[..., None]
        return own + share * (refs - own)

    return {"a bias for each key": biased, "one more channel": channel, "two softmaxes merged": merged}


def ways_of_rba(n: int, heads: int) -> dict[str, Way]:
    """RBA: each region's queries attend to their own reference. The regions are quarters of the picture."""
    q, k, v, ref_k, ref_v, ref_bias = attention_of(n, heads)
    each = n // 2
    regions = torch.arange(n) * (REFERENCES + 1) // n - 1
    tokens = [torch.nonzero(regions == region).flatten() for region in range(-1, REFERENCES)]

    def by_region() -> Tensor:
        out = torch.empty_like(q)
        for region, rows in enumerate(tokens, start=-1):
            if region < 0:
                out[:, :, rows] = scaled_dot_product_attention(q[:, :, rows], k, v)
                continue
            part = slice(region * each, (region + 1) * each)
            keys, values = (torch.cat(pair, dim=2) for pair in ((k, ref_k[:, :, part]), (v, ref_v[:, :, part])))
            bias = torch.cat((ref_bias.new_zeros(n), ref_bias[part]))
            out[:, :, rows] = scaled_dot_product_attention(
                q[:, :, rows], keys, values, attn_mask=bias[None, None, None]
            )
        return out

    def masked() -> Tensor:
        bias = torch.full((n, n + len(ref_bias)), -math.inf)
        bias[:, :n] = 0
        for region, rows in enumerate(tokens[1:]):
            columns = slice(n + region * each, n + (region + 1) * each)
            bias[rows, columns] = ref_bias[region * each : (region + 1) * each]
        keys, values = torch.cat((k, ref_k), dim=2), torch.cat((v, ref_v), dim=2)
        return scaled_dot_product_attention(q, keys, values, attn_mask=bias)

    return {"a call for each region": by_region, "one call with an n x m mask": masked}


def ways_of_smoothing(n: int, heads: int, pack: ModuleType) -> dict[str, Way]:
    """S C and S S C of the segmentation."""
    q, k, _, _, _, _ = attention_of(n, heads)
    flat_q, flat_k = (x.transpose(1, 2).flatten(2) for x in (q, k))
    maps = torch.rand((1, n, TOKENS), generator=torch.Generator().manual_seed(1))
    attend = pack.attention.attend.TorchAttend(heads)

    def rows_of_s(rows: slice) -> Tensor:
        return (q[:, :, rows] @ k.transpose(-1, -2) * HEAD**-0.5).softmax(dim=-1).mean(dim=1)

    def chunked() -> Tensor:
        def smooth(x: Tensor) -> Tensor:
            return torch.cat([rows_of_s(slice(first, first + 128)) @ x for first in range(0, n, 128)], dim=1)

        once = smooth(maps)
        return (once + 3 * smooth(once)) / 4

    def dense() -> Tensor:
        whole = rows_of_s(slice(None))
        return (whole @ maps + 3 * (whole @ whole) @ maps) / 4

    return {
        "attention with maps as values": lambda: pack.attention.segmentation.power_average(
            maps, flat_q, flat_k, attend
        ),
        "rows of S in chunks": chunked,
        "S and S S themselves": dense,
    }


def ways_of_the_reference_pass(pack: ModuleType) -> list[Row]:
    """The reference pass of three references on the narrow shape, inside a run, where the model is prepared for it."""
    module = pack.sampling.references.reference_pass
    kind = module.ReferencePass
    rows: list[Row] = []
    run, reader = kind.run, kind.reader

    def first_keys(references: Any, at: Any, hooks: Any) -> Tensor:
        kv = run(references, at, hooks)
        return torch.cat([concept.k for concept in kv[next(iter(kv))]], dim=1)

    def endless_reader(*args: Any) -> Callable[..., Tensor]:
        attn1 = reader(*args)

        def attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
            try:
                return attn1(q, k, v, extra_options)
            except module.LastBlockReached:
                return module.HostAttention(extra_options)(q, k, v)

        return attention

    def compared(*given: Any) -> Any:
        if not rows:
            each = patch.object(module, "by_shape", lambda views, level: [[view] for view in views])
            whole = patch.object(kind, "reader", endless_reader)
            ways: dict[str, Way] = {
                "together, to the last injection block": partial(first_keys, *given),
                "one after another": each(partial(first_keys, *given)),
                "to the UNet's end": whole(partial(first_keys, *given)),
            }
            rows.extend(time_ways(ways, 3))
        return run(*given)

    scene = Scene(SHAPES["narrow"])
    with patch.object(kind, "run", compared):
        scene.run(scene.patched_model(REFERENCES))
    return rows


def time_ways(ways: dict[str, Way], tries: int = TRIES) -> list[Row]:
    """For each way: its seconds, the ratio to the first way's, and the largest difference to the first way's result."""
    expected = next(iter(ways.values()))()
    error = {name: float((way() - expected).abs().max() / expected.abs().max()) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    threads = torch.get_num_threads()
    timers = {name: Timer("way()", globals={"way": way}, num_threads=threads) for name, way in ways.items()}
    for _ in range(tries):  # in turns, so that other work on the machine slows down all of them
        for name, one in timers.items():
            seconds[name].append(one.timeit(1).mean)
    first = seconds[next(iter(ways))]
    return [
        (name, median(its), median(a / b for a, b in zip(its, first, strict=True)), error[name])
        for name, its in seconds.items()
    ]


def main(file: Path | None) -> int:
    """Print the table; returns 1 if a way's result differs.

    Args:
        file: for the figures as JSON.
    """
    pack = load_pack()
    chosen: Sequence[tuple[str, Callable[[int, int], dict[str, Way]]]] = (
        ("RSA", ways_of_rsa),
        ("RBA", ways_of_rba),
        ("smoothing", partial(ways_of_smoothing, pack=pack)),
    )
    with torch.inference_mode():
        found = [(f"{what}, {grid}", time_ways(make(*size))) for what, make in chosen for grid, size in GRIDS.items()]
    found.append(("three references", ways_of_the_reference_pass(pack)))
    rows = [(what, *row) for what, its in found for row in its]
    if file:
        file.write_text(json.dumps({"ways": rows}, indent=1) + "\n", encoding="utf-8")
    print("\n".join(ways_table(rows)))
    return int(any(error > MAX_ERROR for *_, error in rows))
