"""After a failure anywhere in a run, the next run gives the picture of a fresh process, and nothing is left over."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from devtools.tiny_pack.alive import left_over, report

from .graph import picture

pytestmark = pytest.mark.usefixtures("as_node")

BLOCKS = (("input", 4, 0), ("input", 7, 1), ("middle", 0, 0), ("output", 0, 1), ("output", 3, 0), ("output", 5, 0))


class Boom(Exception):
    """The error that the tests raise."""


def raising(calls_before: int, error: type[BaseException] = Boom):
    """A function that returns so many times, then raises."""
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) > calls_before:
            raise error

    return fail


def test_objects_that_are_alive_in_a_run_are_found(graph):
    """The other tests rely on this check finding what is alive."""
    seen = []
    watching = graph.apply(graph.model, *graph.two_references())
    watching.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "test", lambda run, *a, **k: seen.append(left_over()) or run(*a, **k)
    )
    graph.sample(watching, steps=2)
    expected = {
        "Run",
        "Evaluation",
        "ReferencePass",
        "ConceptKV",
        "Segmenter",
        "CondBatch",
        "CondRow",
        "RegionIndex",
    }
    assert expected <= set(seen[-1]) and not left_over()


@pytest.mark.parametrize("kind", ["attn1", "attn2"])
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: ".".join(map(str, block)))
def test_another_patch_that_fails_in_a_block_leaves_nothing(graph, kind, block):
    """It fails in the second evaluation, when there are regions and references' keys."""
    patched = graph.apply(graph.model, *graph.two_references())
    expected = graph.sample(patched)
    fail = raising(1)

    def attention(q, k, v, extra):
        fail()
        return v if kind == "attn1" else q

    failing = patched.clone()
    getattr(failing, f"set_model_{kind}_replace")(attention, *block)
    with pytest.raises(Boom):
        graph.sample(failing)
    assert not left_over()
    assert torch.equal(graph.sample(patched), expected)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: ".".join(map(str, block)))
def test_a_failing_reference_pass_leaves_nothing(graph, block):
    """A reference pass of the second evaluation fails in the middle of the UNet."""
    patched = graph.apply(graph.model, *graph.two_references(), schedule=graph.schedule(keep_mb=0))
    expected = graph.sample(patched)
    stage, number, depth = block
    unet = patched.model.diffusion_model
    layers = unet.middle_block if stage == "middle" else getattr(unet, f"{stage}_blocks")[number]
    transformer = next(layer for layer in layers if hasattr(layer, "transformer_blocks")).transformer_blocks[depth]
    handle = transformer.register_forward_pre_hook(raising(2))
    try:
        with pytest.raises(Boom):
            graph.sample(patched)
    finally:
        handle.remove()
    assert not left_over()
    assert torch.equal(graph.sample(patched), expected)


def test_out_of_memory_with_a_single_reference_is_passed_on(graph, pack, monkeypatch):
    """ComfyUI's own error and its advice are passed on, and the next run has enough memory again."""
    patched = graph.apply(graph.model, *graph.two_references(), schedule=graph.schedule(keep_mb=0))
    expected = graph.sample(patched)
    passes = pack.sampling.references.reference_pass.ReferencePass
    tried = []

    def scarce(self, group, at, caught):
        tried.append(len(group))
        raise comfy.model_management.OOM_EXCEPTION("no room at all")

    with monkeypatch.context() as patch:
        patch.setattr(passes, "through_unet", scarce)
        with pytest.raises(comfy.model_management.OOM_EXCEPTION, match="no room at all"):
            graph.sample(patched)
    assert tried == [2, 1] and not left_over()
    assert torch.equal(graph.sample(patched), expected)


def test_a_cancel_ends_the_encoding_of_views(graph, monkeypatch):
    """No further view is encoded, and encoding once more gives the usual result."""
    given = picture(3, views=3)
    expected = graph.reference(image=given).latents
    encode, seen = graph.vae.encode, []

    def encoded(view):
        seen.append(1)
        if len(seen) == 2:
            comfy.model_management.interrupt_current_processing()
        return encode(view)

    with monkeypatch.context() as patch:
        patch.setattr(graph.vae, "encode", encoded)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            graph.reference(image=given)
    assert len(seen) == 2
    assert torch.equal(graph.reference(image=given).latents, expected)


def test_tensors_do_not_accumulate(graph):
    """Successful and failed runs leave no new tensors, except in the bounded store of regions."""
    patched = graph.apply(graph.model, *graph.two_references())
    failing = patched.clone()
    fail = raising(1)
    failing.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", lambda run, *a, **k: fail() or run(*a, **k))

    def bytes_elsewhere():
        graph.sample(patched)
        with pytest.raises(Boom):
            graph.sample(failing)
        found = report()
        return found["tensor_bytes"] - found["kept_bytes"]

    bytes_elsewhere()
    first = bytes_elsewhere()
    assert [bytes_elsewhere() for _ in range(3)] == [first] * 3
