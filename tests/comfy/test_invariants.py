"""Invariants of every run: sampling changes nothing but the picture, and only as requested."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from devtools.tiny_pack.alive import left_over

from .graph import NEGATIVE, PROMPT, picture
from .steering import assert_same, follow, lead

pytestmark = pytest.mark.usefixtures("as_node")


def comparable(value: Any) -> Any:
    """A value that shows changes when compared: containers by their contents, everything else by identity."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value).__name__, [comparable(item) for item in value]
    return value if isinstance(value, int | float | str | bool | None) else id(value)


def attributes(model) -> Any:
    """Every attribute of a ModelPatcher except its list of clones."""
    return comparable({name: value for name, value in vars(model).items() if name != "parent"})


def patcher_settings(model) -> Any:
    """All that is set on a ModelPatcher."""
    names = ("model_options", "wrappers", "callbacks", "patches", "object_patches", "injections", "attachments")
    return comparable({name: getattr(model, name) for name in names})


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.model.state_dict().items()}


def same_weights(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_applying_changes_nothing_upstream(graph):
    model = graph.model.clone()
    options, before = attributes(model), weights(model)
    for weight in (1.0, 2.0, 3.0):
        graph.apply(model, *graph.two_references(weight))
    assert attributes(model) == options
    assert same_weights(weights(model), before)


def test_sampling_a_patched_model_changes_nothing_upstream(graph):
    vanilla = graph.sample(graph.model)
    settings, before = patcher_settings(graph.model), weights(graph.model)
    patched = graph.apply(graph.model, *graph.two_references())
    settings_patched = patcher_settings(patched)
    assert not torch.equal(graph.sample(patched), vanilla)
    assert patcher_settings(graph.model) == settings and patcher_settings(patched) == settings_patched
    assert same_weights(weights(graph.model), before)
    assert torch.equal(graph.sample(graph.model), vanilla)
    assert not left_over()


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2s_ancestral"])
def test_weights_of_zero_give_the_unpatched_picture(graph, sampler):
    patched = graph.apply(graph.model, *graph.two_references(0.0, 0.0))
    vanilla = graph.sample(graph.model, sampler_name=sampler, batch=2)
    assert torch.equal(graph.sample(patched, sampler_name=sampler, batch=2), vanilla)
    assert torch.equal(graph.sample(patched, graph.text(PROMPT), sampler_name=sampler, batch=2), vanilla)


def test_a_reference_of_weight_zero_changes_nothing(graph):
    hat, scarf = graph.two_references(3.0, 0.0)
    assert torch.equal(graph.sample(graph.apply(graph.model, hat, scarf)), graph.sample(graph.apply(graph.model, hat)))


def test_a_weight_of_zero_in_one_stage_switches_only_that_stage_off(graph):
    hat = graph.reference()
    layout_only = graph.mask_weight(hat, weight=3.0, injection_weight=0.0)
    injection_only = graph.mask_weight(hat, weight=0.0, injection_weight=3.0)
    one_stage = {switch: graph.schedule(switch=switch, semantic_guidance=False) for switch in (0.0, 1.0)}
    vanilla = graph.sample(graph.model)
    for reference, silent in ((layout_only, 0.0), (injection_only, 1.0)):
        pictures = {s: graph.sample(graph.apply(graph.model, reference, schedule=one_stage[s])) for s in one_stage}
        torch.testing.assert_close(pictures[silent], vanilla, rtol=0, atol=1e-4)
        assert (pictures[1.0 - silent] - vanilla).abs().max() > 1.0


def test_repeated_and_reverted_settings_give_the_same_picture(graph):
    first = graph.sample(graph.apply(graph.model, *graph.two_references(3.0)))
    assert torch.equal(graph.sample(graph.apply(graph.model, *graph.two_references(3.0))), first)
    assert not torch.equal(graph.sample(graph.apply(graph.model, *graph.two_references(1.5))), first)
    assert torch.equal(graph.sample(graph.apply(graph.model, *graph.two_references(3.0))), first)


def test_the_last_application_counts(graph):
    hat, scarf = graph.two_references()
    once = graph.apply(graph.model, hat)
    twice = graph.apply(once, scarf)
    assert torch.equal(graph.sample(twice), graph.sample(graph.apply(graph.model, scarf)))
    assert torch.equal(graph.sample(once), graph.sample(graph.apply(graph.model, hat)))


@pytest.mark.rounding
def test_each_image_of_a_batch_has_its_own_regions(graph):
    patched = graph.apply(graph.model, *graph.two_references())
    batch, together = lead(graph.pack, patched, lambda model: graph.sample(model, batch=3))
    regions = graph.regions_by_step(batch)
    assert all(len(steps) == 3 for steps in regions)
    for image in range(3):
        assert not torch.equal(regions[image][-1], regions[(image + 1) % 3][-1])
        latent = {"samples": torch.zeros(1, 4, 16, 16), "batch_index": [image]}
        expected = [evaluation.of_images([image]) for evaluation in together]
        _, alone = follow(
            graph.pack, patched, lambda model, latent=latent: graph.sample(model, latent=latent), expected
        )
        assert_same(alone, expected)


def test_global_randomness_is_not_touched(graph):
    noise, latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5)), torch.zeros(1, 4, 16, 16)
    sigmas = comfy.samplers.calculate_sigmas(graph.model.get_model_object("model_sampling"), "karras", 2)
    before = torch.get_rng_state()
    patched, positive = graph.apply(graph.model, *graph.two_references()), graph.prompt()
    comfy.sample.sample_custom(
        patched, noise, 5.0, comfy.samplers.sampler_object("euler"), sigmas, positive, graph.text(), latent,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)


class Boom(Exception):
    """The error that the tests raise."""


def in_the_second_unet_call(model, error):
    calls = []

    def wrapper(executor, *args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise error
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", wrapper)


def in_a_reference_pass(model, error):
    def override(function, *args, **kwargs):
        # Reference passes have a list of conds of their own, and no patches.
        if "wrappers" not in kwargs["transformer_options"]:
            raise error
        return function(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override


def in_a_prediction(model, error):
    def after(args):
        raise error

    model.set_model_sampler_post_cfg_function(after)


@pytest.mark.parametrize("fail_at", [in_the_second_unet_call, in_a_reference_pass, in_a_prediction])
@pytest.mark.parametrize("error", [Boom, comfy.model_management.InterruptProcessingException])
def test_a_failed_run_leaves_nothing(graph, fail_at, error):
    patched = graph.apply(graph.model, *graph.two_references())
    clean = graph.sample(patched)
    settings, before = patcher_settings(patched), weights(patched)
    breaking = patched.clone()
    fail_at(breaking, error)
    with pytest.raises(error):
        graph.sample(breaking)
    assert not left_over()
    assert patcher_settings(patched) == settings and same_weights(weights(patched), before)
    assert torch.equal(graph.sample(patched), clean)


@pytest.mark.parametrize("at", range(1, 5))
def test_no_unet_call_begins_after_a_cancel(graph, monkeypatch, at):
    """Two references of different shapes and separate prompts: four UNet calls per evaluation."""
    references = [graph.reference("hat", 1), graph.reference("scarf", 2, image=picture(2, 128, 192))]
    patched = graph.apply(graph.model, *references)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: 0)  # so each cond gets its own call
    seen = []

    unet = type(patched.model.diffusion_model)
    forward = unet._forward

    def called(*args, **kwargs):
        seen.append(1)
        if len(seen) == at:
            comfy.model_management.interrupt_current_processing()
        return forward(*args, **kwargs)

    monkeypatch.setattr(unet, "_forward", called)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        graph.sample(patched)
    assert len(seen) == at and not left_over()


@pytest.mark.parametrize("interrupt", [False, True])
def test_a_run_whose_callback_fails_leaves_nothing(graph, interrupt):
    patched = graph.apply(graph.model, *graph.two_references())
    clean = graph.sample(patched)

    def callback(step, x0, x, total):
        if not interrupt:
            raise Boom
        comfy.model_management.interrupt_current_processing()  # noticed at the next check: before the reference pass

    latent, seen = torch.zeros(1, 4, 16, 16), []
    patched.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "test", lambda run, *a, **k: seen.append(1) or run(*a, **k)
    )
    with pytest.raises(comfy.model_management.InterruptProcessingException if interrupt else Boom):
        comfy.sample.sample(
            patched, comfy.sample.prepare_noise(latent, 1), 3, 5.0, "euler", "normal", graph.prompt(),
            graph.text(NEGATIVE), latent, callback=callback, disable_pbar=True, seed=1,
        )  # fmt: skip
    assert len(seen) == 1
    assert not left_over()
    assert torch.equal(graph.sample(patched), clean)
