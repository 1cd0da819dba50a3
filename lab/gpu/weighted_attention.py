"""Ways to compute attention to weighted references, on attention of the model's own size and type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.benchmark import Timer, timer

# Tokens and heads of SDXL's two resolutions with attention, at 1024 pixels.
GRIDS = {"full": ((4096, 10), (1024, 20)), "narrow": ((1024, 2), (256, 4)), "tiny": ((256, 2), (64, 4))}
HEAD, CUDNN_TOKENS = 64, 128  # cuDNN plans a kernel for each number of keys, so that is rounded up
COUNTS = (1, 3)
TRIES, REPEATED = 7, 5
WEIGHT = 1.5


class Inputs:
    """One image's queries, keys and values, those of half-covered references, and the bias of each key.

    Args:
        n: tokens of the image.
        heads: of attention.
        count: of references.
        device, dtype: of all tensors.
    """

    def __init__(self, n: int, heads: int, count: int, device: torch.device, dtype: torch.dtype) -> None:
        generator = torch.Generator(device).manual_seed(0)
        m = count * n // 2

        def normal(tokens: int) -> Tensor:
            return torch.randn((1, heads, tokens, HEAD), generator=generator, device=device).to(dtype)

        self.n = n
        self.q, self.k, self.v, self.ref_k, self.ref_v = normal(n), normal(n), normal(n), normal(m), normal(m)
        self.bias = torch.cat((torch.zeros(n), torch.full((m,), WEIGHT))).to(device, dtype)

    @property
    def joined(self) -> tuple[Tensor, Tensor]:
        """(1, heads, n + m, 64) keys and values."""
        return torch.cat((self.k, self.ref_k), dim=2), torch.cat((self.v, self.ref_v), dim=2)


def biased(x: Inputs) -> Tensor:
    """A bias for each key, memory-efficient: the way in use."""
    keys, values = x.joined
    kernels = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kernels) if x.q.device.type == "cuda" else nullcontext():  # as the product does
        return scaled_dot_product_attention(x.q, keys, values, attn_mask=x.bias[None, None, None])


def extra_channel(x: Inputs) -> Tensor:
    """A channel more holds the bias; widths are multiples of 8, and values as wide as keys."""
    keys, values = (pad(each, (0, 8)) for each in x.joined)
    queries, scale = pad(x.q, (0, 8)), HEAD**-0.5
    queries[..., HEAD] = 1 / scale
    keys[..., HEAD] = x.bias
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(queries, keys, values, scale=scale)[..., :HEAD]


def merged(x: Inputs) -> Tensor:
    """Two flash calls and their log-sum-exps; only where all keys of the references have one bias."""
    (own, own_sum), (refs, refs_sum) = _flash(x.q, x.k, x.v), _flash(x.q, x.ref_k, x.ref_v)
    share = torch.sigmoid(refs_sum + WEIGHT - own_sum)[..., None]
    return own + share.to(own.dtype) * (refs - own)


def _flash(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention, and (1, heads, n) the logarithms of the softmax sums."""
    if q.device.type == "cuda":
        found = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return found[0], found[1]


def cudnn_padded(x: Inputs) -> Tensor:
    """cuDNN with the bias, and the number of keys rounded up by keys that nobody attends to."""
    keys, values = x.joined
    more = -keys.shape[2] % CUDNN_TOKENS
    keys, values = (pad(each, (0, 0, 0, more)) for each in (keys, values))
    mask = pad(x.bias, (0, more), value=-torch.inf).expand(1, 1, x.n, -1)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return scaled_dot_product_attention(x.q, keys, values, attn_mask=mask)


def unweighted(x: Inputs) -> Tensor:
    """No weights, so a wrong result: what the fastest kernel takes for as many keys."""
    return scaled_dot_product_attention(x.q, *x.joined)


WAYS: dict[str, Callable[[Inputs], Tensor]] = {
    "memory-efficient with a bias (in use)": biased,
    "one more channel, flash": extra_channel,
    "two flash calls merged": merged,
    "cuDNN with padded lengths": cudnn_padded,
    "without weights, for comparison": unweighted,
}


def compared(shape: str) -> Iterator[dict[str, Any]]:
    """Measure all ways for each grid and number of references.

    Yields:
        what, way; first_s: seconds of the first call; s: median of later ones; ratio: to the way in use, within a
        round; error: largest difference to the way in use, of its largest value. Or the reason why a way is not
        available in place of these.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    for n, heads in GRIDS[shape]:
        for count in COUNTS:
            with torch.inference_mode():
                yield from _compare(f"{n} tokens, {count} references", Inputs(n, heads, count, device, dtype))


def _compare(what: str, inputs: Inputs) -> Iterator[dict[str, Any]]:
    firsts: dict[str, tuple[float, Tensor]] = {}
    for name, way in WAYS.items():
        before = timer()
        try:
            result = way(inputs)
            firsts[name] = timer() - before, result.float()
        except RuntimeError as error:
            yield {"what": what, "way": name, "reason": str(error).splitlines()[0]}
    timers = {
        name: Timer("way()", globals={"way": partial(WAYS[name], inputs)}, num_threads=torch.get_num_threads())
        for name in firsts
    }
    seconds: dict[str, list[float]] = {name: [] for name in firsts}
    for _ in range(TRIES):
        for name, one in timers.items():
            seconds[name].append(one.timeit(REPEATED).mean)
    in_use = next(iter(WAYS))
    expected = firsts[in_use][1]
    for name, (first, result) in firsts.items():
        yield {
            "what": what,
            "way": name,
            "first_s": first,
            "s": median(seconds[name]),
            "ratio": median(a / b for a, b in zip(seconds[name], seconds[in_use], strict=True)),
            "error": float((result - expected).abs().max() / expected.abs().max()),
        }
