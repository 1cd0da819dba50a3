"""What must hold whatever is sampled: nothing changes but the picture, and that only by what is requested."""

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


def frozen(value: Any) -> Any:
    """Something equal only to itself unchanged: containers by what they hold, everything else by identity."""
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value).__name__, [frozen(item) for item in value]
    return value if isinstance(value, int | float | str | bool | None) else id(value)


def attributes(model) -> Any:
    """Every attribute of a ModelPatcher but its list of clones."""
    return frozen({name: value for name, value in vars(model).items() if name != "parent"})


def settings_of(model) -> Any:
    """All that is set on a ModelPatcher."""
    names = ("model_options", "wrappers", "callbacks", "patches", "object_patches", "injections", "attachments")
    return frozen({name: getattr(model, name) for name in names})


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.model.state_dict().items()}


def same_weights(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_applying_changes_nothing_upstream(graph):
    model = graph.model.clone()
    options, before = attributes(model), weights(model)
    for weight in (1.0, 2.0, 3.0):
        graph.apply(model, *graph.two(weight))
    assert attributes(model) == options
    assert same_weights(weights(model), before)


def test_sampling_a_patched_model_changes_nothing_upstream(graph):
    vanilla = graph.sample(graph.model)
    settings, before = settings_of(graph.model), weights(graph.model)
    patched = graph.apply(graph.model, *graph.two())
    settings_patched = settings_of(patched)
    assert not torch.equal(graph.sample(patched), vanilla)
    assert settings_of(graph.model) == settings and settings_of(patched) == settings_patched
    assert same_weights(weights(graph.model), before)
    assert torch.equal(graph.sample(graph.model), vanilla)
    assert not left_over()


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2s_ancestral"])
def test_weights_of_zero_are_the_unpatched_picture(graph, sampler):
    patched = graph.apply(graph.model, *graph.two(0.0, 0.0))
    vanilla = graph.sample(graph.model, sampler_name=sampler, batch=2)
    assert torch.equal(graph.sample(patched, sampler_name=sampler, batch=2), vanilla)
    assert torch.equal(graph.sample(patched, graph.text(PROMPT), sampler_name=sampler, batch=2), vanilla)


def test_a_reference_of_weight_zero_takes_no_part(graph):
    hat, scarf = graph.two(3.0, 0.0)
    assert torch.equal(graph.sample(graph.apply(graph.model, hat, scarf)), graph.sample(graph.apply(graph.model, hat)))


def test_a_weight_of_zero_in_one_stage(graph):
    hat = graph.reference()
    layout_only = graph.weighted(hat, weight=3.0, injection_weight=0.0)
    injection_only = graph.weighted(hat, weight=0.0, injection_weight=3.0)
    one_stage = {switch: graph.schedule(switch=switch, semantic_guidance=False) for switch in (0.0, 1.0)}
    vanilla = graph.sample(graph.model)
    for reference, silent in ((layout_only, 0.0), (injection_only, 1.0)):
        pictures = {s: graph.sample(graph.apply(graph.model, reference, schedule=one_stage[s])) for s in one_stage}
        torch.testing.assert_close(pictures[silent], vanilla, rtol=0, atol=1e-4)
        assert (pictures[1.0 - silent] - vanilla).abs().max() > 1.0


def test_the_same_again_and_a_change_taken_back(graph):
    first = graph.sample(graph.apply(graph.model, *graph.two(3.0)))
    assert torch.equal(graph.sample(graph.apply(graph.model, *graph.two(3.0))), first)
    assert not torch.equal(graph.sample(graph.apply(graph.model, *graph.two(1.5))), first)
    assert torch.equal(graph.sample(graph.apply(graph.model, *graph.two(3.0))), first)


def test_the_last_application_counts(graph):
    hat, scarf = graph.two()
    once = graph.apply(graph.model, hat)
    twice = graph.apply(once, scarf)
    assert torch.equal(graph.sample(twice), graph.sample(graph.apply(graph.model, scarf)))
    assert torch.equal(graph.sample(once), graph.sample(graph.apply(graph.model, hat)))


@pytest.mark.rounding
def test_each_image_of_a_batch_has_its_own_regions(graph):
    patched = graph.apply(graph.model, *graph.two())
    batch, together = lead(graph.pack, patched, lambda model: graph.sample(model, batch=3))
    regions = graph.recorded(batch)
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
    patched, positive = graph.apply(graph.model, *graph.two()), graph.prompt()
    comfy.sample.sample_custom(
        patched, noise, 5.0, comfy.samplers.sampler_object("euler"), sigmas, positive, graph.text(), latent,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)


class Boom(Exception):
    """What the tests throw in."""


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
        # The references' own calls come with no list of conds but their own, and nobody's patches.
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
def test_nothing_is_left_of_a_run_that_broke_off(graph, fail_at, error):
    patched = graph.apply(graph.model, *graph.two())
    clean = graph.sample(patched)
    settings, before = settings_of(patched), weights(patched)
    breaking = patched.clone()
    fail_at(breaking, error)
    with pytest.raises(error):
        graph.sample(breaking)
    assert not left_over()
    assert settings_of(patched) == settings and same_weights(weights(patched), before)
    assert torch.equal(graph.sample(patched), clean)


@pytest.mark.parametrize("at", range(1, 5))
def test_no_unet_call_begins_after_a_cancel(graph, monkeypatch, at):
    """Two references of unlike shapes, positive and negative apart: four UNet calls in an evaluation."""
    references = [graph.reference("hat", 1), graph.reference("scarf", 2, image=picture(2, 128, 192))]
    patched = graph.apply(graph.model, *references)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: 0)  # ComfyUI's calls one by one
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
def test_nothing_is_left_of_a_run_whose_callback_breaks_off(graph, interrupt):
    patched = graph.apply(graph.model, *graph.two())
    clean = graph.sample(patched)

    def callback(step, x0, x, total):
        if not interrupt:
            raise Boom
        comfy.model_management.interrupt_current_processing()  # seen at the next chance: before the references

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
