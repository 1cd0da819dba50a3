"""Weights of other types, weights that lie elsewhere, several devices: the same picture as far as numbers allow."""

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
from .neighbours import lora, named
from .steering import assert_same, follow, lead

pytestmark = pytest.mark.usefixtures("as_node")

AS_MUCH_AGAIN = 2  # times the unpatched model's own rounding; 0.9 and 1.05 were measured


def rounded(graph: Graph, tiny_model: ModuleType, dtype: torch.dtype) -> Graph:
    """The graph with all of the UNet's weights rounded to a type, and float32 again."""
    model = tiny_model.load_unet("sdxl", 0, torch.float32, disable_dynamic=True)
    with torch.no_grad():
        for weight in model.model.diffusion_model.parameters():
            weight.copy_(weight.to(dtype).float())
    return replace(graph, model=model)


@pytest.mark.rounding
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_weights_of_other_types(graph, tiny_model, dtype):
    """Cast where they are used, as ComfyUI does on devices that do not compute in their type: only they are rounded."""
    other = replace(graph, model=tiny_model.load_unet("sdxl", 0, dtype))
    exact = rounded(graph, tiny_model, dtype)
    _, expected = lead(graph.pack, exact.apply(exact.model, *exact.two()), exact.sample)
    _, cast = follow(graph.pack, other.apply(other.model, *other.two()), other.sample, expected)
    assert_same(cast, expected)
    assert {0, 1} <= set(torch.stack([each.regions.concepts for each in expected]).flatten().tolist())


@pytest.mark.parametrize("compute", ["fp16", "bf16"])
def test_computing_in_other_types(graph, tiny_model, compute):
    """The method adds no more rounding than the unpatched model has itself; the bound is of the same run."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[compute]
    exact = rounded(graph, tiny_model, dtype)
    model = call(ModelComputeDtype, model=exact.model, dtype=compute)[0]
    assert model.model.get_dtype_inference() is torch.float32  # until it is loaded
    quiet = graph.schedule(semantic_guidance=False)  # which divides by what may be next to nothing
    patched = [exact.sample(exact.apply(m, *exact.two(), schedule=quiet), steps=2) for m in (exact.model, model)]
    assert model.model.get_dtype_inference() is dtype
    plain = [exact.sample(m, steps=2) for m in (exact.model, model)]
    own = (plain[0] - plain[1]).abs().mean()
    assert own > 0 and (patched[0] - patched[1]).abs().mean() < AS_MUCH_AGAIN * own
    assert (patched[0] - plain[0]).abs().mean() > AS_MUCH_AGAIN * own
    regions = [torch.stack(graph.recorded(latent)[0]) for latent in patched]
    assert (regions[0][0] == regions[1][0]).float().mean() > 0.9
    assert torch.isfinite(exact.sample(exact.apply(model, *exact.two()))).all()


@pytest.mark.parametrize("state", ["LOW_VRAM", "NO_VRAM", "HIGH_VRAM"])
@pytest.mark.parametrize("with_lora", [False, True])
def test_weights_that_are_brought_when_needed(graph, tiny_model, monkeypatch, state, with_lora):
    """ComfyUI's ways with little memory, on a device that it takes for an accelerator."""
    expected = graph.sample(graph.apply(lora(graph, graph.model) if with_lora else graph.model, *graph.two()))
    own = replace(graph, model=tiny_model.load_unet("sdxl", 0, torch.float32, disable_dynamic=True))
    monkeypatch.setattr(comfy.model_management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(comfy.model_management, "vram_state", comfy.model_management.VRAMState[state])
    if state == "LOW_VRAM":
        monkeypatch.setattr(comfy.model_management, "MIN_WEIGHT_MEMORY_RATIO", 0.0)
        monkeypatch.setattr(comfy.model_management, "minimum_inference_memory", lambda: 8 * 2**30 - 2**20)
    model = own.apply(lora(own, own.model) if with_lora else own.model, *own.two())
    for _ in range(2):
        latent = own.sample(model)
        assert own.model.model.model_lowvram == (state != "HIGH_VRAM")
        assert torch.equal(latent, expected)


multigpu = pytest.mark.skipif(
    not hasattr(comfy.model_management, "get_all_torch_devices"), reason="this ComfyUI uses one device"
)


@pytest.fixture
def split(monkeypatch):
    """ComfyUI's node that spreads the conds of a call over devices; both of them are this CPU."""
    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: devices)
    monkeypatch.setattr(comfy.model_management, "set_torch_device", lambda device: None)
    node = importlib.import_module("comfy_extras.nodes_multigpu").MultiGPUCFGSplitNode

    def spread(model):
        comfy.model_management.unload_all_models()
        return call(node, model=model, max_gpus=2)[0]

    # ComfyUI's node stumbles over loaded models whose patcher is gone, and leaves some: each later load of any model
    # would look for them in all of memory.
    yield spread
    comfy.model_management.unload_all_models()


@pytest.mark.rounding
@multigpu
@pytest.mark.parametrize("patched_first", [False, True])
def test_two_devices(graph, split, patched_first):
    """Positive and negative in threads of their own, on two copies of the model: the same picture."""
    references = graph.two()
    _, expected = lead(graph.pack, graph.apply(graph.model, *references), graph.sample)
    model = (
        split(graph.apply(graph.model, *references)) if patched_first else graph.apply(split(graph.model), *references)
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
def test_two_devices_and_a_neighbour(graph, split, neighbour):
    """What a prompt brings along reaches both copies of the model; a batch of two, for good measure."""
    texts = named(neighbour).texts(graph, graph.prompt(), graph.text())

    def sample(model):
        return graph.sample(model, *texts, steps=5, batch=2)

    _, expected = lead(graph.pack, graph.apply(graph.model, *graph.two()), sample)
    assert_same(follow(graph.pack, graph.apply(split(graph.model), *graph.two()), sample, expected)[1], expected)


@multigpu
def test_an_error_on_one_of_two_devices(graph, split):
    """It ends the run, and the next one is as ever."""
    model = graph.apply(split(graph.model), *graph.two())
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
