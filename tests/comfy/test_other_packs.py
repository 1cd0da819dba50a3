"""What the method and other patches mean together, beyond the checks that `test_neighbours` makes for all of them."""

from __future__ import annotations

import logging
import math
from itertools import pairwise

import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance

from .graph import call
from .neighbours import compile_blocks, gligen
from .stand_ins import fewer_queries, last_writer, longer_keys, windows
from .steering import assert_same, follow, lead

pytestmark = pytest.mark.usefixtures("as_node")

STEPS = 3


def test_an_attention_patch_that_changes_nothing_changes_nothing(graph):
    same = graph.apply(last_writer("attn1", 1.0)(graph, graph.model), *graph.two_references())
    _, expected = lead(graph.pack, graph.apply(graph.model, *graph.two_references()), graph.sample)
    assert_same(follow(graph.pack, same, graph.sample, expected)[1], expected)


@pytest.mark.rounding
def test_own_keys_that_another_patch_doubles_count_twice(graph):
    """Doubling each own key leaves the attention unchanged if references weigh twice as much, e^(w + log 2)."""

    def twice(q, k, v, extra):
        return q, torch.cat([k, k], dim=1), torch.cat([v, v], dim=1)

    _, plain = lead(graph.pack, graph.apply(graph.model, *graph.two_references(3.0, 2.0)), graph.sample)
    model = graph.apply(graph.model, *graph.two_references(3.0 + math.log(2), 2.0 + math.log(2)))
    model.set_model_attn1_patch(twice)
    assert_same(follow(graph.pack, model, graph.sample, plain)[1], plain)


@pytest.mark.parametrize("patched_first", [True, False])
def test_skipped_evaluations_keep_the_regions(graph, patched_first):
    """EasyCache skips UNet calls that would change little; such a step has the regions of the step before."""
    given, calls = graph.two_references(), []
    cache = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0}
    if patched_first:
        model = call(EasyCacheNode, model=graph.apply(graph.model, *given), **cache)[0]
    else:
        model = graph.apply(call(EasyCacheNode, model=graph.model, **cache)[0], *given)

    def requested(run, x, timesteps, *args, **kwargs):
        calls.append(float(timesteps[0]))
        return run(x, timesteps, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "zz_innermost", requested)
    latent = graph.sample(model, steps=8)
    regions = graph.regions_by_step(latent)[0]
    assert torch.isfinite(latent).all() and len(regions) == 8
    assert 0 < len(calls) < 8
    changed = sum(not torch.equal(before, after) for before, after in pairwise(regions))
    assert 0 < changed < len(calls)


@pytest.mark.parametrize("node", [PerturbedAttentionGuidance, SelfAttentionGuidance])
@pytest.mark.parametrize("patched_first", [True, False])
def test_nested_calls_do_not_change_the_regions(graph, node, patched_first):
    """Guidance that calls the model again changes the picture through its scale only."""
    given = graph.two_references()
    plain, expected = lead(graph.pack, graph.apply(graph.model, *given), graph.sample)

    def with_guidance(scale):
        if patched_first:
            return call(node, model=graph.apply(graph.model, *given), scale=scale)[0]
        return graph.apply(call(node, model=graph.model, scale=scale)[0], *given)

    assert_same(follow(graph.pack, with_guidance(1e-7), graph.sample, expected)[1], expected, rtol=1e-3)
    strong = graph.sample(with_guidance(2.0))
    assert torch.isfinite(strong).all() and (strong - plain).abs().max() > 0.1
    assert torch.equal(graph.regions_by_step(strong)[0][0], graph.regions_by_step(plain)[0][0])


def test_nested_calls_attend_to_the_same_references(graph):
    """A second call with the same input gives the same result: with references for the prompt only."""
    patched_model = graph.apply(graph.model, *graph.two_references())
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


def test_other_patches_are_logged(graph, caplog):
    """One line per run names the patches in the same blocks, and strict mode refuses them."""
    model = last_writer("attn2", 0.5)(graph, longer_keys(graph, graph.model))
    with caplog.at_level(logging.INFO, logger="magicface"):
        latent = graph.sample(graph.apply(model, *graph.two_references()))
        graph.sample(graph.apply(graph.model, *graph.two_references()))
    logged = [record.message for record in caplog.records if "in the same blocks" in record.message]
    assert len(logged) == 1
    module = last_writer.__module__
    assert f"longer_keys.<lambda> ({module}) as attn1_patch" in logged[0]
    assert logged[0].endswith(f"last_writer.times ({module}) in place of attn2 in output.1.0, output.4.0.")

    calls = []
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", lambda run, *a, **k: calls.append(1) or run(*a, **k))
    with pytest.raises(graph.sampling_error, match=r"MagicFaceApply: strict: .*as attn1_patch.*switch strict off"):
        graph.sample(graph.apply(model, *graph.two_references(), strict=True))
    assert not calls
    expected = graph.sample(graph.apply(graph.model, *graph.two_references()))
    assert torch.equal(graph.sample(graph.apply(graph.model, *graph.two_references(), strict=True)), expected)
    assert not torch.equal(latent, expected)


def in_cond_batches(graph, function):
    """The model with both: a wrapper of CALC_COND_BATCH before MagicFace, and one after it."""
    for first in (True, False):
        model = graph.model if first else graph.apply(graph.model, *graph.two_references())
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test", function)
        yield graph.apply(model, *graph.two_references()) if first else model


def test_a_prompt_that_is_passed_on_as_a_copy_keeps_its_role(graph):
    """The lists and the conds in them are copies."""

    def copied(run, model, conds, *args):
        return run(model, [listed and [dict(cond) for cond in listed] for listed in conds], *args)

    expected = graph.sample(graph.apply(graph.model, *graph.two_references()))
    for model in in_cond_batches(graph, copied):
        assert torch.equal(graph.sample(model), expected)


def test_another_prompt_in_place_of_the_positive_one_is_logged(graph, caplog):
    def replaced(run, model, conds, *args):
        return run(model, [conds[1], conds[1]], *args)

    plain = graph.model.clone()
    plain.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test", replaced)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(graph.sample(graph.apply(plain, *graph.two_references())), graph.sample(plain))
    assert [r.getMessage() for r in caplog.records if "nothing attended to the references" in r.getMessage()]


@pytest.mark.rounding
def test_windows_without_overlap_equal_the_whole_batch(graph):
    """Each image has its own regions, whichever images are in its window."""
    batch = 4

    def sample(model):
        return graph.sample(model, batch=batch)

    _, expected = lead(graph.pack, graph.apply(graph.model, *graph.two_references()), sample)
    for model in in_cond_batches(graph, windows(0, batch)):
        assert_same(follow(graph.pack, model, sample, expected)[1], expected)


@pytest.mark.parametrize("shown", [True, False])
def test_windows_that_overlap(graph, caplog, shown):
    """Each image has regions in both orders; where nothing says which images a window has, a finding says so."""
    wrapper = windows(1, 3)

    def hidden(run, model, conds, x, timestep, options):
        def call_on(model, conds, x, timestep, options):
            del options["transformer_options"]["ad_params"]
            return run(model, conds, x, timestep, options)

        return wrapper(call_on, model, conds, x, timestep, options)

    for model in in_cond_batches(graph, wrapper if shown else hidden):
        caplog.clear()
        latent = graph.sample(model, batch=3)
        logged = any("Their place is not known" in record.getMessage() for record in caplog.records)
        assert torch.isfinite(latent).all() and logged is not shown
        for steps in graph.regions_by_step(latent):
            assert len(steps) == (STEPS if shown else 0)
            assert not shown or {0, 1} & set(torch.stack(steps).flatten().tolist())


@pytest.mark.rounding
@pytest.mark.parametrize("patched_first", [True, False])
def test_comfyuis_context_windows_over_a_batch(graph, patched_first):
    """Without overlap each image is sampled as in the whole batch."""
    batch = 4
    inputs = {"context_schedule": "standard_static", "context_length": 2, "context_overlap": 0, "fuse_method": "flat"}

    def sample(model):
        return graph.sample(model, batch=batch)

    given = graph.two_references()
    _, expected = lead(graph.pack, graph.apply(graph.model, *given), sample)
    if patched_first:
        model = call(ContextWindowsManualNode, model=graph.apply(graph.model, *given), **inputs)[0]
    else:
        model = graph.apply(call(ContextWindowsManualNode, model=graph.model, **inputs)[0], *given)
    assert_same(follow(graph.pack, model, sample, expected)[1], expected)


@pytest.mark.parametrize("patched_first", [True, False])
def test_nested_calls_for_tiles_use_no_regions(graph, patched_first, caplog):
    """Where a tile lies is not known: its queries attend to all references, and the picture's regions stay."""
    tiles = []

    def ask_for_tiles(args):
        for tile in args["input"].split(8, dim=-1):
            found = comfy.samplers.calc_cond_batch(
                args["model"], [args["cond"], args["uncond"]], tile, args["sigma"], args["model_options"]
            )
            tiles.append(found[0].clone())
        return args["denoised"]

    given = graph.two_references()
    expected = graph.sample(graph.apply(graph.model, *given))
    model = graph.apply(graph.model, *given) if patched_first else graph.model.clone()
    model.set_model_sampler_post_cfg_function(ask_for_tiles)
    latent = graph.sample(model if patched_first else graph.apply(model, *given))
    assert torch.equal(latent, expected)
    last = list(tiles)
    tiles.clear()
    layout = graph.apply(graph.model, *given, schedule=graph.run("MagicFaceSchedule", switch=1.0)[0])
    layout.set_model_sampler_post_cfg_function(ask_for_tiles)
    graph.sample(layout)
    assert torch.equal(last[0], tiles[0]) and torch.equal(last[1], tiles[1])
    messages = [r.getMessage() for r in caplog.records if "Their place is not known" in r.getMessage()]
    assert len(messages) == 2  # once for each run


def test_a_latent_that_another_node_sends_first_does_not_count(graph):
    """As reference-only packs do: a latent of their own goes through the UNet with the same conds first."""

    def twice(run, x, *args, **kwargs):
        run(torch.ones_like(x), *args, **kwargs)
        return run(x, *args, **kwargs)

    given = graph.two_references()
    expected = graph.sample(graph.apply(graph.model, *given))
    for before in (True, False):
        model = graph.model.clone() if before else graph.apply(graph.model, *given)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", twice)
        assert torch.equal(graph.sample(graph.apply(model, *given) if before else model), expected)


def test_a_latent_that_goes_first_within_a_call_does_not_count(graph):
    """As before, but by a forward of the UNet in place of its own, so that both are one call for wrappers."""
    unet = graph.model.model.diffusion_model
    model = graph.apply(graph.model, *graph.two_references())
    expected = graph.sample(model)
    own, passes = unet._forward, []

    def twice(x, *args, **kwargs):
        options = next(given for given in (*args, kwargs.get("transformer_options")) if isinstance(given, dict))
        if len(options["cond_or_uncond"]) == 2:  # not a reference pass
            passes.append(1)
            own(torch.ones_like(x), *args, **kwargs)
        return own(x, *args, **kwargs)

    unet._forward = twice
    try:
        assert torch.equal(graph.sample(model), expected)
    finally:
        del unet._forward
    assert len(passes) == STEPS


def test_strict_refuses_a_prompts_gligen(graph_of):
    graph = graph_of("sd1")
    positive, negative = gligen(graph, graph.prompt(), graph.text())
    with pytest.raises(graph.sampling_error, match=r"strict: .*GLIGEN"):
        graph.sample(graph.apply(graph.model, *graph.two_references(), strict=True), positive, negative)


@pytest.mark.parametrize("fails", [False, True])
def test_torch_compile_is_switched_off(graph, caplog, fails):
    """Compiled code runs without the method only; after a finished or failed run it is switched on again."""
    runs = []

    def backend(module, inputs):
        return lambda *args: runs.append(1) or module.forward(*args)

    model = compile_blocks(graph, graph.model, backend)
    alone = graph.sample(model)
    assert torch.equal(alone, graph.sample(graph.model)) and runs
    runs.clear()
    both = graph.apply(model, *graph.two_references())
    if fails:

        def fail(run, *args, **kwargs):
            raise RuntimeError("fails")

        both.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", fail)
        with pytest.raises(RuntimeError, match="fails"):
            graph.sample(both)
    else:
        with caplog.at_level(logging.INFO, logger="magicface"):
            for weight in (3.0, 1.0):
                expected = graph.sample(graph.apply(graph.model, *graph.two_references(weight, weight)))
                assert torch.equal(graph.sample(graph.apply(model, *graph.two_references(weight, weight))), expected)
        assert sum("torch.compile is switched off" in record.message for record in caplog.records) == 2
    assert not runs
    assert torch.equal(graph.sample(model), alone) and runs


def test_a_compiled_model_is_refused_where_torch_cannot_switch_compile_off(graph, monkeypatch):
    """Only a compiled model is refused there."""
    monkeypatch.delattr(torch.compiler, "set_stance")
    expected = graph.sample(graph.apply(graph.model, *graph.two_references()))
    assert not torch.equal(expected, graph.sample(graph.model))
    with pytest.raises(graph.sampling_error, match=r"MagicFaceApply: model: is compiled .* torch 2\.6 or newer"):
        graph.sample(graph.apply(compile_blocks(graph, graph.model), *graph.two_references()))


def test_attention_that_is_called_again_for_some_rows_is_left_alone(graph):
    """As by a pack with a forward of its own for blocks: some rows again, and without newer options."""
    name, again, patches = ("output", 3, 0), [], []

    def attention(q, k, v, extra):
        out = optimized_attention(q, k, v, extra["n_heads"])
        if len(q) > 1:
            older = {option: value for option, value in extra.items() if option != "attn_precision"}
            part = patches[-1](q[1:], k[1:], v[1:], older)
            again.append(torch.allclose(part, out[1:], rtol=1e-4, atol=1e-5))
        return out

    model = graph.model.clone()
    model.set_model_attn1_replace(attention, *name)
    patched_model = graph.apply(model, *graph.two_references())
    block = next(
        layer.transformer_blocks[0]
        for layer in model.model.diffusion_model.output_blocks[3]
        if hasattr(layer, "transformer_blocks")
    )
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: patches.append(kwargs["transformer_options"]["patches_replace"]["attn1"][name]),
        with_kwargs=True,
    )
    try:
        latent = graph.sample(patched_model)
    finally:
        handle.remove()
    assert torch.isfinite(latent).all() and len(again) == STEPS and all(again)


def test_rows_that_are_repeated_are_named(graph):
    """As by regional prompting by attention: the rows of the prompt are repeated for each of its texts."""
    model = graph.apply(graph.model, *graph.two_references())
    model.set_model_attn2_patch(lambda q, k, v, extra: (q.repeat(2, 1, 1), k.repeat(2, 1, 1), v.repeat(2, 1, 1)))
    model.set_model_attn2_output_patch(lambda out, extra: out[: len(out) // 2])
    says = r"rows instead of 2\..*Conditioning \(Set Mask\) and Conditioning \(Combine\)"
    with pytest.raises(graph.sampling_error, match=says):
        graph.sample(model)


def test_a_sampler_that_goes_on_after_value_errors_hides_nothing(graph):
    """As a regional sampler over several models does, which would give out the latent that it had."""

    def go_on(model, positive=None):
        try:
            graph.sample(model, positive)
        except ValueError:
            pytest.fail("it goes on without the picture")

    given = graph.two_references()
    model = graph.apply(graph.model, *given)
    with pytest.raises(graph.sampling_error, match="'scarf' is not in the positive prompt"):
        go_on(model, graph.prompt("a hat"))
    with pytest.raises(graph.sampling_error, match="not come from MagicFace Prompt"):
        go_on(model, graph.text())
    with pytest.raises(graph.sampling_error, match="half_of_the_tokens"):
        go_on(fewer_queries(graph, model))
    with pytest.raises(graph.sampling_error, match="strict"):
        go_on(graph.apply(longer_keys(graph, graph.model), *given, strict=True))


NORM = "diffusion_model.output_blocks.3.1.transformer_blocks.0.norm1"


def fail(*_):
    raise ZeroDivisionError("fails")


def test_a_forward_that_stays_on_a_module_is_named(graph):
    """It was changed in place, so it stays when its node is gone. It fails in the reference pass only."""
    norm = graph.model.model.get_submodule(NORM)
    model = graph.apply(graph.model, *graph.two_references())
    expected = graph.sample(model)
    norm.forward = lambda x: type(norm).forward(norm, x) if x.shape[1] == 1 else fail()
    try:
        with pytest.raises(graph.sampling_error) as error:
            graph.sample(model)
    finally:
        del norm.forward
    assert isinstance(error.value.__cause__.__cause__, ZeroDivisionError)
    for words in ("call for the references failed: fails", f"<lambda> ({__name__})", "remove its node", "restart"):
        assert words in str(error.value)
    assert torch.equal(graph.sample(model), expected)


def test_a_forward_that_comfyui_put_back_is_not_named(graph, caplog):
    """The error is passed on as it is, and the log says where it comes from."""
    norm = graph.model.model.get_submodule(NORM)
    other = graph.model.clone()
    other.add_object_patch(f"{NORM}.forward", lambda x: type(norm).forward(norm, x))
    graph.sample(other, steps=1)
    model = graph.apply(graph.model, *graph.two_references(), schedule=graph.schedule(keep_mb=0))
    graph.sample(model, steps=1)
    handle = norm.register_forward_pre_hook(fail)
    try:
        assert "forward" in vars(norm)
        with pytest.raises(ZeroDivisionError):
            graph.sample(model)
    finally:
        handle.remove()
        del norm.forward
    assert "the UNet call for the references failed: fails" in caplog.text
