"""Beside other patches: they count as ever, whatever was applied first, and nothing of ours is upset by them."""

from __future__ import annotations

import math
from itertools import pairwise

import comfy.lora
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_tomesd import TomePatchModel

from .graph import box, call, picture

pytest_plugins = [f"{__package__}.graph"]
pytestmark = pytest.mark.usefixtures("as_node")

STEPS = 3


def lora_of(model, strength=0.5):
    """The model with a LoRA on a self-attention that references pass through."""
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    layer = "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
    rows, columns = model.model.state_dict()[keys[layer]].shape
    lora = {f"{layer}.lora_up.weight": torch.ones(rows, 1), f"{layer}.lora_down.weight": torch.ones(1, columns) / 9}
    return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]


def scaled_by(block_type, factor):
    """Another pack's attention patch: the usual attention times a factor."""

    def patched(model):
        model = model.clone()

        def attention(q, k, v, extra):
            return factor * optimized_attention(q, k, v, extra["n_heads"], transformer_options=extra)

        for number in (1, 4):
            getattr(model, f"set_model_{block_type}_replace")(attention, "output", number, 0)
        return model

    return patched


@pytest.mark.parametrize("other", [lora_of, scaled_by("attn1", 0.5), scaled_by("attn2", 0.5)])
def test_other_patches_count_and_their_order_does_not(graph, other):
    hat = graph.reference(image=picture(1), mask=box(128, 128, 0, 0, 128, 64), weight=3.0)
    before, after = graph.apply(other(graph.model), hat), other(graph.apply(graph.model, hat))
    assert torch.equal(graph.sample(before), graph.sample(after))
    assert not torch.equal(graph.sample(before), graph.sample(graph.apply(graph.model, hat)))


def test_an_attention_patch_that_changes_nothing_changes_nothing(graph):
    same = graph.apply(scaled_by("attn1", 1.0)(graph.model), *graph.two())
    expected = graph.sample(graph.apply(graph.model, *graph.two()))
    torch.testing.assert_close(graph.sample(same), expected, rtol=1e-4, atol=1e-3)


def test_keys_that_another_patch_adds(graph):
    """Each own key twice is the same attention, but for references: they must weigh twice as much, e^(w + log 2)."""

    def twice(q, k, v, extra):
        return q, torch.cat([k, k], dim=1), torch.cat([v, v], dim=1)

    plain = graph.sample(graph.apply(graph.model, *graph.two(3.0, 2.0)))
    model = graph.apply(graph.model, *graph.two(3.0 + math.log(2), 2.0 + math.log(2)))
    model.set_model_attn1_patch(twice)
    latent = graph.sample(model)
    torch.testing.assert_close(latent, plain, rtol=1e-4, atol=1e-3)
    assert torch.equal(torch.stack(graph.recorded(latent)[0]), torch.stack(graph.recorded(plain)[0]))


@pytest.mark.parametrize("patched_first", [True, False])
def test_skipped_evaluations_keep_the_regions(graph, patched_first):
    """EasyCache leaves out UNet calls that promise little news; such a step has the regions of the one before."""
    given, calls = graph.two(), []
    cache = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0}
    if patched_first:
        model = call(EasyCacheNode, model=graph.apply(graph.model, *given), **cache)[0]
    else:
        model = graph.apply(call(EasyCacheNode, model=graph.model, **cache)[0], *given)

    def asked(run, x, timesteps, *args, **kwargs):
        calls.append(float(timesteps[0]))
        return run(x, timesteps, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "zz_innermost", asked)
    latent = graph.sample(model, steps=8)
    regions = graph.recorded(latent)[0]
    assert torch.isfinite(latent).all() and len(regions) == 8
    assert 0 < len(calls) < 8
    changed = sum(not torch.equal(before, after) for before, after in pairwise(regions))
    assert 0 < changed < len(calls)


@pytest.mark.parametrize(
    ("node", "inputs", "family", "block"),
    [
        (HyperTile, {"tile_size": 32, "max_depth": 1}, "sdxl", ("block input.4.0", "8x8 grid")),
        (TomePatchModel, {"ratio": 0.5}, "sd1", ("block output.9.0", "16x16 grid")),
    ],
    ids=["HyperTile", "token merging"],
)
@pytest.mark.parametrize("patched_first", [True, False])
def test_patches_that_change_the_tokens_are_refused(graph_of, node, inputs, family, block, patched_first):
    graph = graph_of(family)
    if patched_first:
        model = call(node, model=graph.apply(graph.model, *graph.two()), **inputs)[0]
    else:
        model = graph.apply(call(node, model=graph.model, **inputs)[0], *graph.two())
    with pytest.raises(ValueError) as error:
        graph.sample(model)
    for word in ("MagicFace: ", *block, "HyperTile or token merging", "remove it"):
        assert word in str(error.value)


@pytest.mark.parametrize("node", [PerturbedAttentionGuidance, SelfAttentionGuidance])
@pytest.mark.parametrize("patched_first", [True, False])
def test_nested_calls_leave_the_regions_alone(graph, node, patched_first):
    """Guidance that calls the model again changes the picture by its scale, and else nothing."""
    given = graph.two()
    plain = graph.sample(graph.apply(graph.model, *given))

    def with_guidance(scale):
        if patched_first:
            return graph.sample(call(node, model=graph.apply(graph.model, *given), scale=scale)[0])
        return graph.sample(graph.apply(call(node, model=graph.model, scale=scale)[0], *given))

    faint = with_guidance(1e-7)
    torch.testing.assert_close(faint, plain, rtol=1e-3, atol=1e-3)
    assert torch.equal(torch.stack(graph.recorded(faint)[0]), torch.stack(graph.recorded(plain)[0]))
    strong = with_guidance(2.0)
    assert torch.isfinite(strong).all() and (strong - plain).abs().max() > 0.1
    assert torch.equal(graph.recorded(strong)[0][0], graph.recorded(plain)[0][0])


def test_nested_calls_see_what_the_first_one_saw(graph):
    """Asked again for the same, the model says the same: with references for the prompt, without for the negative."""
    patched_model = graph.apply(graph.model, *graph.two())
    errors = []

    def ask_again(args):
        for name in ("cond", "uncond"):
            (again,) = comfy.samplers.calc_cond_batch(
                args["model"], [args[name]], args["input"], args["sigma"], args["model_options"]
            )
            errors.append(float((again - args[f"{name}_denoised"]).abs().max()))
        return args["denoised"]

    expected = graph.sample(patched_model)
    asking = patched_model.clone()
    asking.set_model_sampler_post_cfg_function(ask_again)
    assert torch.equal(graph.sample(asking), expected)
    assert len(errors) == 2 * STEPS and max(errors) < 1e-3
