"""On a GPU: the same picture as on the CPU, few waits of the host, and no n x n tensor."""

from __future__ import annotations

import comfy.ldm.modules.attention
import comfy.model_management
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelComputeDtype

from .graph import Graph, box, call, picture
from .neighbours import lora, neighbour_named
from .simulated_gpu import GPU, simulate_gpu

pytestmark = pytest.mark.usefixtures("as_node")

STEPS = 3
MEGABYTES, NONE = {"keep_mb": 1024}, {"keep_mb": 0}


@pytest.fixture
def gpu(monkeypatch, pack):
    """A simulated GPU, and an empty reference cache."""
    store = pack.sampling.references.cache.REFERENCE_CACHE
    store.clear()
    with simulate_gpu(monkeypatch) as simulated:
        yield simulated
        comfy.model_management.unload_all_models()
    store.clear()


@pytest.fixture
def there(graph, tiny_model, gpu):
    """The graph with models that are loaded while there is a GPU."""
    unet = tiny_model.load_unet("sdxl", 0, torch.float32, disable_dynamic=True)
    return Graph(graph.pack, graph.nodes, unet, tiny_model.load_clip("sdxl", 0), tiny_model.load_vae("sdxl", 0))


def three_references(graph):
    """References of a hat with two views and of a scarf."""
    return [*graph.two_references(), graph.reference("hat", 4, mask=box(128, 128, 0, 0, 64, 128), weight=3.0)]


def sample(graph, model=None, *texts, schedule=None, record=None, half=False, **inputs):
    """The latent of a run of the patched model."""
    if half:
        model = call(ModelComputeDtype, model=graph.model, dtype="fp16")[0]
    settings = graph.schedule(**(schedule or {}))
    patched = graph.apply(model or graph.model, *three_references(graph), schedule=settings, record=record)
    return graph.sample(patched, *texts, **{"steps": STEPS, **inputs})


def assert_same(graph, latent, expected):
    """Assert that latents and regions are equal, bit for bit."""
    assert torch.equal(latent, expected)
    for ours, theirs in zip(graph.regions_by_step(latent), graph.regions_by_step(expected), strict=True):
        assert torch.equal(torch.stack(ours), torch.stack(theirs)) and {0, 1} & set(theirs[-1].flatten().tolist())


def test_the_simulated_gpu_refuses_and_waits_as_a_real_one(gpu):
    """Operations that a real GPU refuses fail, and operations that make the host wait are recorded."""
    name = "test_the_simulated_gpu_refuses_and_waits_as_a_real_one"
    there, here = torch.arange(6.0, device=GPU), torch.arange(6.0)
    for mixed in (lambda: there + here, lambda: here[:3] * there[:3], lambda: torch.cat((here, there))):
        with pytest.raises(RuntimeError, match="in main memory"):
            mixed()
    with pytest.raises(RuntimeError):
        there.numpy()
    assert (there * 2 + here[1]).device == GPU and there[2:].add_(1).device == GPU and not gpu.waits
    assert there.cpu().tolist() == [0, 1, 3, 4, 5, 6] and here.tolist() == [0, 1, 2, 3, 4, 5]
    for waits in (
        there.cpu,
        there.sum().item,
        lambda: bool((there > 0).all()),
        lambda: there[there > 1],
        lambda: there[torch.tensor([1])],
        lambda: torch.nonzero(there),
        lambda: torch.where(there > 1),
        lambda: there.repeat_interleave(there.long()),
        lambda: here.to(GPU),
    ):
        gpu.waits.clear()
        waits()
        assert len(gpu.waits) == 1 and gpu.waits[0].is_inside(name)
    gpu.waits.clear()
    here.to(GPU, non_blocking=True)
    _ = there[torch.tensor([1]).to(GPU, non_blocking=True)]
    torch.where(there > 1, there, 0.0)
    assert not gpu.waits


RUNS = {
    "defaults": {},
    "a batch": {"batch": 2},
    "another shape": {"size": (18, 14)},
    "without guidance": {"cfg": 1.0},
    "another sampler": {"sampler_name": "heun"},
    "cached": {"schedule": MEGABYTES},
    "in half precision": {"half": True},
    "cached on the device": {"schedule": {**MEGABYTES, "keep_on": "device"}},
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_picture_is_that_of_the_cpu(graph, there, run):
    expected = sample(graph, **run)
    for _ in range(2 if "schedule" in run else 1):
        assert_same(graph, sample(there, **run), expected)


TEXTS = ["scheduled LoRA", "ControlNet", "Conditioning (Set Area)", "Conditioning (Set Mask)", "Conditioning (Combine)"]


@pytest.mark.parametrize("neighbour", TEXTS)
def test_what_a_prompt_carries_gives_the_picture_of_the_cpu(graph, there, neighbour):
    row = neighbour_named(neighbour)
    latent, expected = (sample(each, None, *row.texts(each, each.prompt(), each.text())) for each in (there, graph))
    assert_same(graph, latent, expected)


@pytest.mark.parametrize("state", ["LOW_VRAM", "NO_VRAM"])
def test_low_memory_modes_give_the_picture_of_the_cpu(graph, there, monkeypatch, state):
    """Weights stay in main memory and are copied to the GPU when they are needed."""
    management = comfy.model_management
    expected = sample(graph, lora(graph, graph.model))
    monkeypatch.setattr(management, "vram_state", management.VRAMState[state])
    monkeypatch.setattr(management, "MIN_WEIGHT_MEMORY_RATIO", 0.0)
    monkeypatch.setattr(management, "minimum_inference_memory", lambda: 8 * 2**30 - 2**20)
    assert_same(graph, sample(there, lora(there, there.model)), expected)
    assert there.model.model.model_lowvram


def shown(graph, location):
    """Everything that the pack shows of a run whose inputs and pictures are at this location."""
    hat = graph.reference(
        "hat", image=picture(1).to(location), mask=box(128, 128, 0, 16, 80, 112).to(location), weight=3.0
    )
    record = graph.record(steps="0, 2", blocks="output.3.0")
    samples = graph.sample(graph.apply(graph.model, hat, record=record), steps=STEPS)
    latent, image = {"samples": samples.to(location)}, picture(3).to(location)
    pictures = [
        graph.run("MagicFaceSegmentationPreview", latent=latent, image=image),
        graph.run("MagicFaceSegmentationPreview", latent=latent, all_steps=True),
        graph.run("MagicFaceAttentionView", latent=latent, image=image),
        graph.run("MagicFaceAttentionView", latent=latent, query="pixel", x=20, y=30),
        graph.run("MagicFaceCorrespondence", latent=latent, image=image),
    ]
    return [output for result in pictures for output in result.args]


@pytest.mark.parametrize("location", [GPU, "cpu"], ids=["--gpu-only", ""])
def test_previews_and_views_are_those_of_the_cpu(graph, there, location):
    """ComfyUI may leave pictures, masks and latents in either memory."""
    ours, expected = shown(there, location), shown(graph, "cpu")
    assert len(ours) == len(expected) == 7
    for drawn, same in zip(ours, expected, strict=True):
        assert torch.equal(drawn.cpu(), same)


@pytest.mark.parametrize(
    "schedule",
    [NONE, {}, MEGABYTES, {**MEGABYTES, "keep_on": "device"}, {"keep_on": "device"}],
    ids=["not cached", "as shipped", "cached", "on device", "on device as shipped"],
)
def test_the_host_waits_once_per_evaluation(gpu, there, schedule):
    """It never waits inside a block, except to copy keys and values to main memory for the cache."""
    sample(there, schedule=schedule)
    gpu.waits.clear()
    sample(there, schedule=schedule, seed=2)
    waits = [wait for wait in gpu.waits if wait.is_inside("predict_noise")]
    assert len(waits) == STEPS and not any(wait.is_inside("apply_model") for wait in waits)
    gpu.waits.clear()
    there.sample(there.model, steps=STEPS)
    assert not any(wait.is_inside("predict_noise") for wait in gpu.waits)  # the sampler itself does not wait either


@pytest.mark.parametrize("how", ["exactly here", "only within"])
def test_the_host_waits_no_more_for_given_regions(gpu, there, how):
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1.0
    placed = [there.region(each, mask, how, feather_px=9) for each in there.two_references()]
    model = there.apply(there.model, *placed, schedule=there.schedule(**NONE))
    there.sample(model, steps=STEPS)
    gpu.waits.clear()
    there.sample(model, steps=STEPS, seed=2)
    waits = [wait for wait in gpu.waits if wait.is_inside("predict_noise")]
    assert len(waits) == STEPS and not any(wait.is_inside("apply_model") for wait in waits)


def test_nothing_is_as_large_as_a_map_of_queries_by_keys(gpu, there):
    """No tensor has two sides as long as a block's number of tokens; the inside of torch's attention is not seen."""
    sample(there)  # the weights are loaded
    gpu.squarest = 0
    sample(there, size=(132, 132), steps=2)
    assert 77 < gpu.squarest < 33 * 33


def test_regions_share_a_few_padded_query_lengths(gpu, there):
    """Where torch may choose cuDNN, which plans a kernel for each length, lengths are padded so that they recur."""
    sample(there, schedule={"switch": 0.0}, size=(64, 64))
    weighted = {(call.queries, call.cudnn) for call in gpu.attention if call.masked}
    assert len(weighted) > 2 and not any(cudnn for _, cudnn in weighted)
    own = {call.queries for call in gpu.attention if not call.masked and call.keys in (32**2, 16**2)}
    assert {32**2, 16**2} < own and all(queries % (16**2 // 16) == 0 for queries in own)


@pytest.mark.parametrize("backend", ["attention_sub_quad", "attention_split"])
def test_chunked_backends_work_in_chunks_with_a_bias_too(gpu, monkeypatch, pack, backend):
    """On a device for which torch has only the math kernel, all scores would be in memory at once."""
    attention_call, attention = pack.sampling.run.host_attention, comfy.ldm.modules.attention
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, size, 32, generator=generator).to(GPU) for size in (40, 90, 90))
    bias = torch.cat((torch.zeros(40), 12 + torch.randn(50, generator=generator))).half().to(GPU)
    attend = attention_call.HostAttention({"n_heads": 2, "attn_precision": None})
    expected = attend(q, k, v, bias.float()).cpu()
    monkeypatch.setattr(attention_call, "optimized_attention", getattr(attention, backend))
    monkeypatch.setattr(attention_call, "TorchAttend", None)  # not called
    free = 50_000  # a quarter of the scores' size
    with monkeypatch.context() as patch:
        memory = comfy.model_management
        patch.setattr(memory, "get_free_memory", lambda dev=None, both=False: (free, free) if both else free)
        gpu.squarest = 0
        found = attend(q, k, v, bias.float()).cpu()
        assert gpu.squarest < 40  # scores are 40 x 90
        halves = attend(q.half(), k.half(), v.half(), bias).float().cpu()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(halves, expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("threads", [False, True])
def test_the_kernels_that_torch_may_choose_are_restored(gpu, pack, threads):
    """They are restored after a call, and never changed where devices run in threads: they are process-wide."""
    extra = {"n_heads": 2, "attn_precision": None} | ({"multigpu_thread_device": GPU} if threads else {})
    tokens = torch.randn(1, 8, 32).to(GPU)
    pack.sampling.run.host_attention.HostAttention(extra)(tokens, tokens, tokens, torch.zeros(8).to(GPU))
    assert [call.cudnn for call in gpu.attention] == [threads]
    assert torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()
