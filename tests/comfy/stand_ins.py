"""Stand-ins for what other packs do to a model or its prompts: each has the mechanism of a pack, not its code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP

from .graph import PROMPT, Graph

KEY = "stand_in"

BLOCKS = (("output", 1, 0), ("output", 4, 0))


def last_writer(kind: str, factor: float) -> Callable[[Graph, Any], Any]:
    """The usual attention times a factor, in a block's only replacement slot."""

    def times(q, k, v, extra):
        return factor * optimized_attention(q, k, v, extra["n_heads"], transformer_options=extra)

    def patched(graph: Graph, model: Any) -> Any:
        model = model.clone()
        for block in BLOCKS:
            getattr(model, f"set_model_{kind}_replace")(times, *block)
        return model

    return patched


class AdapterStandIn:
    """An object as image-prompt adapters use it: one per block, which later adapters add themselves to."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, value: float) -> None:
        self.values.append(value)

    def __call__(self, q, k, v, extra):
        out = optimized_attention(q, k, v, extra["n_heads"], transformer_options=extra)
        for value in self.values:
            out = out + value * v.mean(1, keepdim=True)
        return out


def add_to_slot(graph: Graph, model: Any) -> Any:
    """Put an object in the slot, or call `.add` on the object that is there already."""
    model = model.clone()
    to = model.model_options["transformer_options"] = dict(model.model_options["transformer_options"])
    to["patches_replace"] = {name: dict(slots) for name, slots in to.get("patches_replace", {}).items()}
    slots = to["patches_replace"].setdefault("attn2", {})
    for block in BLOCKS:
        if block not in slots:
            slots[block] = AdapterStandIn()
        slots[block].add(0.3)
    return model


def longer_keys(graph: Graph, model: Any) -> Any:
    """More keys for every self-attention: the own ones once more, in reversed order."""
    model = model.clone()
    model.set_model_attn1_patch(lambda q, k, v, extra: (q, torch.cat([k, k.flip(1)], 1), torch.cat([v, 2 * v], 1)))
    return model


def override(graph: Graph, model: Any) -> Any:
    """An attention override, as packs set it for a whole model to change the backend; this one adds a temperature."""
    model = model.clone()
    to = model.model_options["transformer_options"] = dict(model.model_options["transformer_options"])
    to["optimized_attention_override"] = lambda attention, q, *args, **kwargs: attention(0.9 * q, *args, **kwargs)
    return model


def around_the_unet(graph: Graph, model: Any) -> Any:
    """A function around every UNet call (a model can have only one)."""
    model = model.clone()
    model.set_model_unet_function_wrapper(
        lambda apply, args: 0.95 * apply(args["input"], args["timestep"], **args["c"])
    )
    return model


class WholeBlockPatch:
    """An object in the slot of a block, for all of its transformer depths."""

    def __call__(self, q, k, v, extra):
        return 0.8 * optimized_attention(q, k, v, extra["n_heads"], transformer_options=extra)


def patch_without_depth(graph: Graph, model: Any) -> Any:
    """Patch a block by its stage and number only, without a depth."""
    model = model.clone()
    for kind in ("attn1", "attn2"):
        model.set_model_patch_replace(WholeBlockPatch(), kind, "output", 1)
    return model


def fewer_queries(graph: Graph, model: Any) -> Any:
    """Attention for every second query only; the others are filled in after the attention."""
    model = model.clone()
    model.set_model_attn1_patch(half_of_the_tokens)
    model.set_model_attn1_output_patch(lambda out, extra: out.repeat_interleave(2, dim=1))
    return model


def half_of_the_keys(q, k, v, extra):
    return q, k[:, ::2], v[:, ::2]


def fewer_keys(graph: Graph, model: Any) -> Any:
    """Every second key and value only, as packs do to save time."""
    model = model.clone()
    model.set_model_attn1_patch(half_of_the_keys)
    return model


def half_of_the_tokens(q, k, v, extra):
    return q[:, ::2], k[:, ::2], v[:, ::2]


# Around the sampler and the guider


def replace_wrappers(graph: Graph, model: Any) -> Any:
    """Put a wrapper around sampling by `wrappers.update`, which removes those of other nodes."""
    model = model.clone()
    louder = lambda run, noise, *args, **kwargs: run(1.1 * noise, *args, **kwargs)  # noqa: E731
    model.wrappers.update({WrappersMP.OUTER_SAMPLE: {None: [louder]}})
    return model


def windows(overlap: int, batch: int, shared: float = 0.0) -> Callable[..., list[torch.Tensor]]:
    """A wrapper that calls on with two images of a batch at a time, on copies of the conds, as motion packs do.

    Args:
        overlap: images that two windows have in common; their predictions are averaged.
        batch: the number of images.
        shared: how far the images of a window are drawn to their mean, as by a motion model.
    """
    starts = range(0, batch - 1, 2 - overlap)

    def wrapper(run, model, conds, x, timestep, options):
        sums, counts = [torch.zeros_like(x) for _ in conds], torch.zeros(batch, 1, 1, 1)
        for start in starts:
            images = [start, start + 1]
            inner = {**options, "transformer_options": {**options["transformer_options"]}}
            inner["transformer_options"]["ad_params"] = {"sub_idxs": images, "full_length": batch}
            copies = [listed and [dict(cond) for cond in listed] for listed in conds]
            counts[images] += 1
            for total, out in zip(sums, run(model, copies, x[images], timestep[images], inner), strict=True):
                total[images] += torch.lerp(out, out.mean(0, keepdim=True), shared)
        return [total / counts for total in sums]

    return wrapper


def windows_of_three(graph: Graph, model: Any) -> Any:
    """Two windows that overlap, for a batch of three images."""
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, windows(1, 3, shared=0.3))
    return model


def guide_by_tiles(graph: Graph, model: Any) -> Any:
    """Guidance towards what the model predicts for the two halves of the picture, each by itself."""

    def guide(args):
        tiles = args["input"].chunk(2, dim=-1)
        given = args["sigma"], args["model_options"]
        found = [comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], tile, *given)[0] for tile in tiles]
        return torch.lerp(args["denoised"], torch.cat(found, dim=-1), 0.1)

    model = model.clone()
    model.set_model_sampler_post_cfg_function(guide)
    return model


def skip_cfg_once(graph: Graph, model: Any) -> Any:
    """No guidance in the second step, for which only the positive prompt goes through the model."""

    def predict(args):
        conds, (x, sigma, options) = args["conds"], (args[name] for name in ("input", "sigma", "model_options"))
        if sigma[0] != options["transformer_options"]["sample_sigmas"][1]:
            return comfy.samplers.calc_cond_batch(args["model"], conds, x, sigma, options)
        return 2 * comfy.samplers.calc_cond_batch(args["model"], conds[:1], x, sigma, options)

    model = model.clone()
    model.set_model_sampler_calc_cond_batch_function(predict)
    return model


# Forwards of modules that packs replace while a model samples


@contextmanager
def forwards(replaced: dict[Any, Callable[..., Any]]) -> Iterator[None]:
    """Give modules other forwards for a while."""
    for module, forward in replaced.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in replaced:
            vars(module).pop("forward")


def reference_only(graph: Graph, model: Any) -> Any:
    """First send a latent of its own through the UNet, then let the positive prompt attend to its tokens too."""
    blocks = [module for module in model.model.diffusion_model.modules() if hasattr(module, "attn1")]

    def around(run, x, *args, **kwargs):
        bank: dict[Any, torch.Tensor] = {}
        with forwards({block: partial(read_tokens, block, bank) for block in blocks}):
            run(x.flip(-1), *args, **kwargs)
        with forwards({block: partial(attend_to_tokens, block, bank) for block in blocks}):
            return run(x, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, around)
    return model


def read_tokens(block, bank, x, context=None, transformer_options=None):
    bank[block] = block.norm1(x)
    return forward_of_block(block, x, context, transformer_options, attention_of(block.attn1, "attn1"))


def attend_to_tokens(block, bank, x, context=None, transformer_options=None):
    attend = attention_of(block.attn1, "attn1")
    roles = transformer_options["cond_or_uncond"]

    def longer(tokens, _, options):
        out = attend(tokens, torch.cat([tokens, bank[block]], 1), options)
        negative = [row for row in range(len(tokens)) if roles[row * len(roles) // len(tokens)] == 1]
        if negative:  # once more, without the tokens
            out[negative] = attend(tokens[negative], tokens[negative], options)
        return out

    return forward_of_block(block, x, context, transformer_options, longer)


def forward_of_block(block, x, context, options, self_attention):
    """A transformer block by an older forward: its options for patches lack the newer names."""
    tokens = block.norm1(x)
    x = x + self_attention(tokens, tokens, options)
    x = x + attention_of(block.attn2, "attn2")(block.norm2(x), context, options)
    return x + block.ff(block.norm3(x))


def attention_of(attention, kind):
    def attend(tokens, context, options):
        extra = {name: value for name, value in options.items() if name not in ("patches", "patches_replace")}
        extra |= {"n_heads": attention.heads, "dim_head": attention.dim_head}
        patch = options.get("patches_replace", {}).get(kind, {}).get((*options["block"], options["block_index"]))
        qkv = attention.to_q(tokens), attention.to_k(context), attention.to_v(context)
        return attention.to_out(patch(*qkv, extra) if patch else optimized_attention(*qkv, attention.heads))

    return attend


def shared_norms(graph: Graph, model: Any) -> Any:
    """Norms that draw the images of a batch together, and take their rows for two prompts of all images."""
    norms = [module.norm1 for module in model.model.diffusion_model.modules() if hasattr(module, "attn1")]

    def around(run, noise, *args, **kwargs):
        with forwards({norm: partial(norm_of_two_prompts, norm, len(noise)) for norm in norms}):
            return run(noise, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around)
    return model


def norm_of_two_prompts(norm, images, x):
    out = type(norm).forward(norm, x).view(2, images, *x.shape[1:])
    return torch.lerp(out, out.mean(1, keepdim=True), 0.3).view_as(x)


# Prompts


def attention_couple(graph: Graph, model: Any) -> Any:
    """Regional prompting by attention: the positive rows attend to two texts, each for one half of the picture."""
    second = graph.text("a dog in a park")[0][0][0]

    def repeat(q, k, v, extra):
        rows: list[tuple[torch.Tensor, ...]] = []
        for role, *qkv in zip(extra["cond_or_uncond"], q, k, v, strict=True):
            rows.append(tuple(qkv))
            if role == 0:
                rows.append((qkv[0], second.to(k), second.to(v)))
        return tuple(torch.stack(each) for each in zip(*rows, strict=True))

    def fold(out, extra):
        parts, left = list(out), torch.arange(out.shape[1])[:, None] % 8 < 4
        return torch.stack(
            [
                parts.pop(0) if role else torch.where(left, parts.pop(0), parts.pop(0))
                for role in extra["cond_or_uncond"]
            ]
        )

    model = model.clone()
    model.set_model_attn2_patch(repeat)
    model.set_model_attn2_output_patch(fold)
    return model


def interleaved(graph: Graph, positive: Any, negative: Any) -> tuple[Any, Any]:
    """Each word once as a key and once as a value, as some packs encode negative weights of words."""

    def twice(text):
        pair = torch.stack([text, 0.8 * text], dim=2)
        return pair.flatten(1, 2)

    return tuple([[twice(text), options] for text, options in listed] for listed in (positive, negative))  # type: ignore[return-value]


def keys_and_values(q, k, v, extra):
    return q, k[:, ::2], v[:, 1::2]


def separate_keys(graph: Graph, model: Any) -> Any:
    """Take the keys and the values out of interleaved texts."""
    model = model.clone()
    model.set_model_attn2_patch(keys_and_values)
    return model


def encoded_by_another(text: str, encoded: str) -> Callable[[Graph, Any, Any], tuple[Any, Any]]:
    """A prompt of a language of its own, passed through MagicFace Prompt: what it is encoded from differs from it."""
    return lambda graph, positive, negative: (graph.prompt(text, conditioning=graph.text(encoded)), negative)


exchanged_words = encoded_by_another(
    "a boy wearing a [red:blue:0.5] hat and a scarf", "a boy wearing a blue hat and a scarf"
)
marked_words = encoded_by_another(f"<lora:hat:0.8> {PROMPT} [in a park]", f"{PROMPT} in a park")
