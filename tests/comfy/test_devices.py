"""Weights of other types, offloaded weights, several devices: the same picture within rounding."""

from __future__ import annotations

import importlib
import threading
from dataclasses import replace
from types import ModuleType

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_model_advanced import ModelComputeDtype

from .graph import Graph, call
from .neighbours import lora, neighbour_named
from .steering import assert_same, follow, lead

pytestmark = pytest.mark.usefixtures("as_node")

MAX_ROUNDING = 2  # times the unpatched model's own rounding error; 0.9 and 1.05 were measured


def round_weights(graph: Graph, tiny_model: ModuleType, dtype: torch.dtype) -> Graph:
    """The graph with all of the UNet's weights rounded to a type and converted back to float32."""
    model = tiny_model.load_unet("sdxl", 0, torch.float32, disable_dynamic=True)
    with torch.no_grad():
        for weight in model.model.diffusion_model.parameters():
            weight.copy_(weight.to(dtype).float())
    return replace(graph, model=model)


@pytest.mark.rounding
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_weights_of_other_types_add_only_their_own_rounding(graph, tiny_model, dtype):
    """Only the weights are rounded: ComfyUI casts them at each use, as on devices that cannot compute in their type."""
    other = replace(graph, model=tiny_model.load_unet("sdxl", 0, dtype))
    exact = round_weights(graph, tiny_model, dtype)
    _, expected = lead(graph.pack, exact.apply(exact.model, *exact.two_references()), exact.sample)
    _, cast = follow(graph.pack, other.apply(other.model, *other.two_references()), other.sample, expected)
    assert_same(cast, expected)
    assert {0, 1} <= set(torch.stack([each.regions.concepts for each in expected]).flatten().tolist())


@pytest.mark.parametrize("compute", ["fp16", "bf16"])
def test_computing_in_other_types_adds_no_more_rounding_than_the_model(graph, tiny_model, compute):
    """The method adds no more rounding error than the unpatched model has; the bound is measured in the same run."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[compute]
    exact = round_weights(graph, tiny_model, dtype)
    model = call(ModelComputeDtype, model=exact.model, dtype=compute)[0]
    assert model.model.get_dtype_inference() is torch.float32  # until the model is loaded
    quiet = graph.schedule(semantic_guidance=False)  # guidance may divide by a value near zero
    patched = [
        exact.sample(exact.apply(m, *exact.two_references(), schedule=quiet), steps=2) for m in (exact.model, model)
    ]
    assert model.model.get_dtype_inference() is dtype
    plain = [exact.sample(m, steps=2) for m in (exact.model, model)]
    own = (plain[0] - plain[1]).abs().mean()
    assert own > 0 and (patched[0] - patched[1]).abs().mean() < MAX_ROUNDING * own
    assert (patched[0] - plain[0]).abs().mean() > MAX_ROUNDING * own
    regions = [torch.stack(graph.regions_by_step(latent)[0]) for latent in patched]
    assert (regions[0][0] == regions[1][0]).float().mean() > 0.9
    assert torch.isfinite(exact.sample(exact.apply(model, *exact.two_references()))).all()


@pytest.mark.parametrize("state", ["LOW_VRAM", "NO_VRAM", "HIGH_VRAM"])
@pytest.mark.parametrize("with_lora", [False, True])
def test_offloaded_weights_give_the_same_picture(graph, tiny_model, monkeypatch, state, with_lora):
    """ComfyUI's low-memory modes, on a device that it treats as an accelerator."""
    expected = graph.sample(
        graph.apply(lora(graph, graph.model) if with_lora else graph.model, *graph.two_references())
    )
    own = replace(graph, model=tiny_model.load_unet("sdxl", 0, torch.float32, disable_dynamic=True))
    monkeypatch.setattr(comfy.model_management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(comfy.model_management, "vram_state", comfy.model_management.VRAMState[state])
    if state == "LOW_VRAM":
        monkeypatch.setattr(comfy.model_management, "MIN_WEIGHT_MEMORY_RATIO", 0.0)
        monkeypatch.setattr(comfy.model_management, "minimum_inference_memory", lambda: 8 * 2**30 - 2**20)
    model = own.apply(lora(own, own.model) if with_lora else own.model, *own.two_references())
    for _ in range(2):
        latent = own.sample(model)
        assert own.model.model.model_lowvram == (state != "HIGH_VRAM")
        assert torch.equal(latent, expected)


multigpu = pytest.mark.skipif(
    not hasattr(comfy.model_management, "get_all_torch_devices"), reason="this ComfyUI uses one device"
)


@pytest.fixture
def split_over_devices(monkeypatch):
    """ComfyUI's node that distributes the conds of a call over devices; here both are the CPU."""
    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: devices)
    monkeypatch.setattr(comfy.model_management, "set_torch_device", lambda device: None)
    node = importlib.import_module("comfy_extras.nodes_multigpu").MultiGPUCFGSplitNode

    def spread(model):
        comfy.model_management.unload_all_models()
        return call(node, model=model, max_gpus=2)[0]

    # ComfyUI's node leaves loaded models behind whose patcher is gone. Each later load of any model would search for
    # them by running the garbage collector.
    yield spread
    comfy.model_management.unload_all_models()


@pytest.mark.rounding
@multigpu
@pytest.mark.parametrize("patched_first", [False, True])
def test_two_devices_give_the_same_picture(graph, split_over_devices, patched_first):
    """Positive and negative run in threads of their own, on two copies of the model, and give the same picture."""
    references = graph.two_references()
    _, expected = lead(graph.pack, graph.apply(graph.model, *references), graph.sample)
    model = (
        split_over_devices(graph.apply(graph.model, *references))
        if patched_first
        else graph.apply(split_over_devices(graph.model), *references)
    )
    threads: set[int] = set()

    def seen(run, *args, **kwargs):
        threads.add(threading.get_ident())
        return run(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", seen)
    _, apart = follow(graph.pack, model, graph.sample, expected)
    assert len(threads) == 2
    assert_same(apart, expected)


@pytest.mark.rounding
@multigpu
@pytest.mark.parametrize("neighbour", ["LoRA as a hook", "scheduled LoRA", "ControlNet", "Conditioning (Combine)"])
def test_two_devices_and_a_neighbour_give_the_same_picture(graph, split_over_devices, neighbour):
    """What a prompt carries (hooks, ControlNets, areas) reaches both copies of the model, with a batch of two."""
    texts = neighbour_named(neighbour).texts(graph, graph.prompt(), graph.text())

    def sample(model):
        return graph.sample(model, *texts, steps=5, batch=2)

    _, expected = lead(graph.pack, graph.apply(graph.model, *graph.two_references()), sample)
    assert_same(
        follow(graph.pack, graph.apply(split_over_devices(graph.model), *graph.two_references()), sample, expected)[1],
        expected,
    )


@multigpu
def test_an_error_on_one_of_two_devices_ends_only_this_run(graph, split_over_devices):
    """The error ends the run, and the next run is not affected."""
    model = graph.apply(split_over_devices(graph.model), *graph.two_references())
    expected = graph.sample(model)

    def fails(run, *args, **kwargs):
        if threading.current_thread() is not threading.main_thread() and args[-1]["multigpu_thread_device"].index == 0:
            raise RuntimeError("device lost")
        return run(*args, **kwargs)

    failing = model.clone()
    failing.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", fails)
    with pytest.raises(RuntimeError, match="device lost"):
        graph.sample(failing)
    assert torch.equal(graph.sample(model), expected)
