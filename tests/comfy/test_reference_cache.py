"""The reference cache: entries are reused if and only if nothing that they depend on has changed."""

from __future__ import annotations

import gc
import logging

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

from .graph import box, call
from .neighbours import lora, with_lora_hook

pytestmark = pytest.mark.usefixtures("as_node", "cache")

STEPS = 3
PLENTY, NONE = {"keep_mb": 1024}, {"keep_mb": 0}


@pytest.fixture
def cache(pack):
    """The reference cache, empty before and after a test."""
    store = pack.sampling.references.cache.REFERENCE_CACHE
    store.clear()
    yield store
    store.clear()


@pytest.fixture
def passes(pack, monkeypatch):
    """The number of views in each reference pass."""
    counted = []
    reference_pass = pack.sampling.references.reference_pass.ReferencePass
    real = reference_pass.through_unet

    def through_unet(self, group, *args):
        counted.append(len(group))
        return real(self, group, *args)

    monkeypatch.setattr(reference_pass, "through_unet", through_unet)
    return counted


def hats(graph, **changed):
    """References of a hat and a scarf; changes apply to the hat."""
    mask = {"weight": changed.pop("weight", 3.0), "resize": changed.pop("resize", "nearest")}
    hat = graph.reference("hat", changed.pop("picture", 1), **{"mask": box(128, 128, 0, 16, 80, 112), **changed})
    scarf = graph.reference("scarf", 2, mask=box(128, 128, 48, 0, 128, 128), weight=3.0)
    return [graph.mask_weight(hat, **mask), scarf]


def sample(graph, settings=None, *, model=None, reference=None, text=None, room=PLENTY, **sampling):
    """A run; `room` is the size of the cache."""
    schedule = graph.schedule(**(settings or {}), **room)
    patched = graph.apply(model or graph.model, *hats(graph, **(reference or {})), schedule=schedule)
    return graph.sample(patched, text, **sampling)


def megabyte_is(monkeypatch, pack, nbytes):
    """Change the unit of keep_mb."""
    for module in (pack.sampling.references.cache_session, pack.sampling.references.cache_budget):
        monkeypatch.setattr(module, "MEGABYTE", nbytes)


def with_attention_override(graph):
    model = graph.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = lambda f, *a, **k: f(*a, **k)
    return model


def with_other_compute_dtype(graph):
    model = graph.model.clone()
    model.set_model_compute_dtype(torch.bfloat16)
    return model


def with_other_noise_levels(graph):
    return call(ModelSamplingDiscrete, model=graph.model, sampling="eps", zsnr=True)[0]


UNCHANGED = {
    "nothing": {},
    "seed": {"seed": 7},
    "batch": {"batch": 3},
    "size": {"size": (16, 24)},
    "cfg": {"cfg": 2.0},
    "weight": {"reference": {"weight": 1.0}},
    "switch": {"settings": {"switch": 1.0}},
    "guidance": {"settings": {"semantic_guidance": False}},
    "regions' blocks": {"settings": {"segmentation_blocks": "middle"}},
}
CHANGED = {
    "picture": {"reference": {"picture": 5}},
    "mask": {"reference": {"mask": box(128, 128, 0, 16, 80, 120)}},
    "resize": {"reference": {"resize": "area", "mask": 0.7 * box(128, 128, 0, 19, 80, 101)}},
    "caption": {"reference": {"caption": "a painting of a hat"}},
    "encoded size": {"reference": {"size": 192}},
    "one off": {"reference": {"weight": 0.0}},
    "noise seed": {"settings": {"noise_seed": 1}},
    "noise levels": {"scheduler": "karras"},
    "blocks": {"settings": {"injection_blocks": "output.3-5"}},
}


def with_injection(graph):
    model = graph.model.clone()
    model.set_injections("test", [PatcherInjection(inject=lambda patcher: None, eject=lambda patcher: None)])
    return model


def with_callback(graph):
    model = graph.model.clone()
    model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, "test", lambda patcher: None)
    return model


MODELS = {
    "injection": with_injection,
    "callback": with_callback,
    "lora": lambda graph: lora(graph, graph.model),
    "type": with_other_compute_dtype,
    "levels": with_other_noise_levels,
    "attention": with_attention_override,
}


@pytest.mark.parametrize("what", UNCHANGED)
def test_changes_that_references_do_not_depend_on_reuse_all_entries(graph, passes, what):
    """All entries are reused, and the picture equals, bit for bit, that of a run that computes them."""
    expected = sample(graph, room=NONE, **UNCHANGED[what])
    sample(graph)
    passes.clear()
    assert torch.equal(sample(graph, **UNCHANGED[what]), expected)
    assert not passes


def test_another_prompt_reuses_all_entries(graph, passes):
    expected = sample(graph, text=graph.prompt("a scarf, and a hat on a dog"), room=NONE)
    sample(graph)
    passes.clear()
    assert torch.equal(sample(graph, text=graph.prompt("a scarf, and a hat on a dog")), expected)
    assert not passes


@pytest.mark.parametrize("what", CHANGED)
def test_changes_that_references_depend_on_reuse_no_entry(graph, passes, what):
    """No entry is reused, so none is stale; unchanged references of the same pass are computed again as well."""
    expected = sample(graph, room=NONE, **CHANGED[what])
    sample(graph)
    passes.clear()
    assert torch.equal(sample(graph, **CHANGED[what]), expected)
    if what == "encoded size":
        assert passes == [1] * 2 * STEPS  # two shapes, so two passes
    elif what == "one off":
        assert passes == [1] * STEPS
    elif what == "noise levels":
        assert passes and set(passes) == {2}  # all schedulers have the same first and last level
    else:
        assert passes == [2] * STEPS


@pytest.mark.parametrize("what", MODELS)
def test_each_model_has_its_own_entries(graph, passes, what):
    """Another model does not reuse entries of the first one, but reuses its own."""
    model = MODELS[what](graph)
    expected = sample(graph, model=model, room=NONE)
    sample(graph)
    passes.clear()
    assert torch.equal(sample(graph, model=model), expected)
    assert len(passes) == STEPS
    assert torch.equal(sample(graph, model=model), expected)
    assert len(passes) == STEPS


def test_equal_patches_that_are_separate_objects_differ(graph, passes):
    """Two LoRAs are not compared by their values."""
    for number in (1, 2):
        sample(graph, model=lora(graph, graph.model))
        assert len(passes) == number * STEPS


def test_each_hook_has_its_own_entries(graph, passes):
    """Entries depend on a hook and its strength, and are reused by a later run with the same hook."""
    hook = with_lora_hook(graph, graph.prompt(), graph.text(), scheduled=True)
    other = with_lora_hook(graph, graph.prompt(), graph.text(), scheduled=True)
    given = {"text": hook[0], "negative": hook[1], "model": graph.model}
    expected = sample(graph, room=NONE, **given)
    sample(graph)
    passes.clear()
    assert torch.equal(sample(graph, **given), expected) and len(passes) == STEPS
    assert torch.equal(sample(graph, **given), expected) and len(passes) == STEPS
    sample(graph, text=other[0], negative=other[1])
    assert len(passes) == 2 * STEPS


def test_a_cache_for_some_steps_is_filled_and_reused(graph, cache, passes, caplog, monkeypatch, pack):
    """What fits is cached and reused, and a line of the log says how large a cache for everything must be."""
    sample(graph)
    all_of_it = cache.nbytes
    cache.clear()
    megabyte_is(monkeypatch, pack, all_of_it * 2 // 3)
    expected = sample(graph, room=NONE)
    passes.clear()
    with caplog.at_level(logging.INFO):
        assert torch.equal(sample(graph, room={"keep_mb": 1}), expected)
    assert all_of_it / 2 < cache.nbytes <= all_of_it * 2 // 3 and len(passes) == STEPS
    lines = [record.getMessage() for record in caplog.records]
    assert any("of 3 reference passes 0 were found in the cache" in line for line in lines)
    assert any("set keep_mb to 2 in MagicFace Schedule to cache everything" in line for line in lines)
    assert torch.equal(sample(graph, room={"keep_mb": 1}), expected)
    assert len(passes) == STEPS + 1


def test_a_smaller_cache_keeps_entries_of_the_run_before(graph, cache):
    """Entries of the run before stay: they may belong to another sampler of the same graph."""
    sample(graph)
    assert cache.nbytes
    sample(graph, room=NONE)
    assert cache.nbytes
    sample(graph, room=NONE)
    assert cache.nbytes == 0


def test_two_samplers_do_not_evict_each_others_entries(graph, cache, passes, pack, monkeypatch):
    """The cache has room for a little more than one of them, and they alternate."""
    sample(graph)
    megabyte_is(monkeypatch, pack, cache.nbytes * 4 // 3)
    for _ in range(3):
        passes.clear()
        for scheduler in ("normal", "karras"):
            sample(graph, room={"keep_mb": 1}, scheduler=scheduler)
    assert len(passes) <= STEPS - 1


def test_entries_are_dropped_with_their_model(graph, cache, tiny_model):
    model = tiny_model.load_unet("sdxl", 1, torch.float32)
    sample(graph)
    before = cache.nbytes
    sample(graph, model=model)
    assert cache.nbytes > before
    comfy.model_management.unload_all_models()
    del model
    gc.collect()
    comfy.model_management.cleanup_models()
    gc.collect()
    assert cache.nbytes == before


def test_entries_leave_the_device_with_their_model(graph, cache, passes, monkeypatch):
    """This holds for every way to unload a model, and entries are still found in main memory."""
    asked = []
    real = cache.to_main_memory
    monkeypatch.setattr(cache, "to_main_memory", lambda model, room: asked.append(model) or real(model, room))
    on_device = {**PLENTY, "keep_on": "device"}
    schedule = graph.schedule(**on_device)
    patched = graph.apply(graph.model, *hats(graph), schedule=schedule)
    expected = graph.sample(patched)
    assert torch.equal(graph.sample(patched), expected)
    assert len(passes) == STEPS and not asked
    comfy.model_management.unload_all_models()
    assert asked == [graph.model.model]
    assert torch.equal(sample(graph, room=on_device), expected)
    assert len(passes) == STEPS


def test_inputs_that_cannot_be_read_are_not_cached(graph, pack, cache, monkeypatch):
    def cannot(thing):
        raise TypeError

    monkeypatch.setattr(pack.sampling.references.view, "content", cannot)
    sample(graph)
    assert cache.nbytes == 0
