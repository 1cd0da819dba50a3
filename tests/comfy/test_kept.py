"""Kept references: found whenever nothing that they depend on has changed, and then only; the picture is the same."""

from __future__ import annotations

import gc
import logging

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

from .graph import box, call
from .neighbours import hooked, lora

pytestmark = pytest.mark.usefixtures("as_node", "kept")

STEPS = 3
PLENTY = {"keep_mb": 1024}


@pytest.fixture
def kept(pack):
    """The kept references, none at first and none at last."""
    store = pack.sampling.references.cache.KEPT
    store.clear()
    yield store
    store.clear()


@pytest.fixture
def passes(pack, monkeypatch):
    """How many views went through the UNet, call by call."""
    counted = []
    reference_pass = pack.sampling.references.reference_pass.ReferencePass
    real = reference_pass._through_unet

    def through_unet(self, group, *args):
        counted.append(len(group))
        return real(self, group, *args)

    monkeypatch.setattr(reference_pass, "_through_unet", through_unet)
    return counted


def hats(graph, **changed):
    """A hat and a scarf; what is changed is the hat's."""
    mask = {"weight": changed.pop("weight", 3.0), "resize": changed.pop("resize", "nearest")}
    hat = graph.reference("hat", changed.pop("picture", 1), **{"mask": box(128, 128, 0, 16, 80, 112), **changed})
    scarf = graph.reference("scarf", 2, mask=box(128, 128, 48, 0, 128, 128), weight=3.0)
    return [graph.weighted(hat, **mask), scarf]


def sample(graph, settings=None, *, model=None, reference=None, text=None, keep=PLENTY, **sampling):
    """A run that keeps its references, or not."""
    schedule = graph.schedule(**(settings or {}), **keep)
    patched = graph.apply(model or graph.model, *hats(graph, **(reference or {})), schedule=schedule)
    return graph.sample(patched, text, **sampling)


def overridden(graph):
    model = graph.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = lambda f, *a, **k: f(*a, **k)
    return model


def cast(graph):
    model = graph.model.clone()
    model.set_model_compute_dtype(torch.bfloat16)
    return model


def resampled(graph):
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


def injected(graph):
    model = graph.model.clone()
    model.set_injections("test", [PatcherInjection(inject=lambda patcher: None, eject=lambda patcher: None)])
    return model


def called_back(graph):
    model = graph.model.clone()
    model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, "test", lambda patcher: None)
    return model


MODELS = {
    "injection": injected,
    "callback": called_back,
    "lora": lambda graph: lora(graph, graph.model),
    "type": cast,
    "levels": resampled,
    "attention": overridden,
}


@pytest.mark.parametrize("what", UNCHANGED)
def test_what_the_references_do_not_depend_on(graph, passes, what):
    """All are found, and the picture is that of a run that computes them, to the last bit."""
    expected = sample(graph, keep={}, **UNCHANGED[what])
    sample(graph)
    passes.clear()
    assert torch.equal(sample(graph, **UNCHANGED[what]), expected)
    assert not passes


def test_another_prompt(graph, passes):
    expected = sample(graph, text=graph.prompt("a scarf, and a hat on a dog"), keep={})
    sample(graph)
    passes.clear()
    assert torch.equal(sample(graph, text=graph.prompt("a scarf, and a hat on a dog")), expected)
    assert not passes


@pytest.mark.parametrize("what", CHANGED)
def test_what_the_references_depend_on(graph, passes, what):
    """Nothing is found, so nothing is stale; what did not change comes along, for it went through the UNet with it."""
    expected = sample(graph, keep={}, **CHANGED[what])
    sample(graph)
    passes.clear()
    assert torch.equal(sample(graph, **CHANGED[what]), expected)
    if what == "encoded size":
        assert passes == [1] * 2 * STEPS  # two shapes, so each for itself
    elif what == "one off":
        assert passes == [1] * STEPS
    elif what == "noise levels":
        assert passes and set(passes) == {2}  # the first and the last level are those of every scheduler
    else:
        assert passes == [2] * STEPS


@pytest.mark.parametrize("what", MODELS)
def test_what_models_are_made_of(graph, passes, what):
    """Another model finds nothing of the first one's, and all of its own."""
    model = MODELS[what](graph)
    expected = sample(graph, model=model, keep={})
    sample(graph)
    passes.clear()
    assert torch.equal(sample(graph, model=model), expected)
    assert len(passes) == STEPS
    assert torch.equal(sample(graph, model=model), expected)
    assert len(passes) == STEPS


def test_patches_made_anew_are_not_the_same(graph, passes):
    """Of equal LoRAs nobody knows that they are."""
    for number in (1, 2):
        sample(graph, model=lora(graph, graph.model))
        assert len(passes) == number * STEPS


def test_hooks(graph, passes):
    """Weights of a hook, at each of its strengths, are as much a part as any; they are known from run to run."""
    hook = hooked(graph, graph.prompt(), graph.text(), scheduled=True)
    other = hooked(graph, graph.prompt(), graph.text(), scheduled=True)
    given = {"text": hook[0], "negative": hook[1], "model": graph.model}
    expected = sample(graph, keep={}, **given)
    sample(graph)
    passes.clear()
    assert torch.equal(sample(graph, **given), expected) and len(passes) == STEPS
    assert torch.equal(sample(graph, **given), expected) and len(passes) == STEPS
    sample(graph, text=other[0], negative=other[1])
    assert len(passes) == 2 * STEPS


def test_room_for_some_steps(graph, kept, passes, caplog, monkeypatch, pack):
    """What fits is kept and found again, and a line says how much would hold all."""
    sample(graph)
    all_of_it = kept.nbytes
    kept.clear()
    monkeypatch.setattr(pack.sampling.references.cache_session, "MEGABYTE", all_of_it * 2 // 3)
    expected = sample(graph, keep={})
    passes.clear()
    with caplog.at_level(logging.INFO):
        assert torch.equal(sample(graph, keep={"keep_mb": 1}), expected)
    assert all_of_it / 2 < kept.nbytes <= all_of_it * 2 // 3 and len(passes) == STEPS
    said = [record.getMessage() for record in caplog.records]
    assert any("of 3 passes of the references 0 were kept" in line for line in said)
    assert any("a keep_mb of 2 in MagicFaceSchedule would hold all" in line for line in said)
    assert torch.equal(sample(graph, keep={"keep_mb": 1}), expected)
    assert len(passes) == STEPS + 1


def test_less_room(graph, kept):
    """Not at the cost of what the run before used: it may be that of another sampler of the same graph."""
    sample(graph)
    assert kept.nbytes
    sample(graph, keep={"keep_mb": 0})
    assert kept.nbytes
    sample(graph, keep={"keep_mb": 0})
    assert kept.nbytes == 0


def test_two_samplers_with_room_for_one(graph, kept, passes, pack, monkeypatch):
    """They do not drive out each other's, prompt after prompt."""
    sample(graph)
    monkeypatch.setattr(pack.sampling.references.cache_session, "MEGABYTE", kept.nbytes * 4 // 3)
    for _ in range(3):
        passes.clear()
        for scheduler in ("normal", "karras"):
            sample(graph, keep={"keep_mb": 1}, scheduler=scheduler)
    assert len(passes) <= STEPS - 1


def test_it_goes_with_its_model(graph, kept, tiny_model):
    model = tiny_model.load_unet("sdxl", 1, torch.float32)
    sample(graph)
    before = kept.nbytes
    sample(graph, model=model)
    assert kept.nbytes > before
    comfy.model_management.unload_all_models()
    del model
    gc.collect()
    comfy.model_management.cleanup_models()
    gc.collect()
    assert kept.nbytes == before


def test_it_leaves_the_device_with_its_model(graph, kept, passes, monkeypatch):
    """Whatever unloads the model; and in main memory it is found as well."""
    asked = []
    real = kept.to_main_memory
    monkeypatch.setattr(kept, "to_main_memory", lambda model: asked.append(model) or real(model))
    on_device = {**PLENTY, "keep_on": "device"}
    schedule = graph.schedule(**on_device)
    patched = graph.apply(graph.model, *hats(graph), schedule=schedule)
    expected = graph.sample(patched)
    assert torch.equal(graph.sample(patched), expected)
    assert len(passes) == STEPS and not asked
    comfy.model_management.unload_all_models()
    assert asked == [graph.model.model]
    assert torch.equal(sample(graph, keep=on_device), expected)
    assert len(passes) == STEPS


def test_inputs_that_cannot_be_told_are_not_kept(graph, pack, kept, monkeypatch):
    def cannot(thing):
        raise TypeError

    monkeypatch.setattr(pack.sampling.references.view, "content", cannot)
    sample(graph)
    assert kept.nbytes == 0
