"""How the method calls attention and the UNet: backends, tiles, memory, masks that become empty."""

from __future__ import annotations

import logging

import comfy.model_management
import pytest
import torch

from .graph import Graph
from .steering import assert_same, follow, lead

pytestmark = pytest.mark.usefixtures("as_node")


def test_attention_overrides_get_all_calls_without_a_bias(graph: Graph) -> None:
    """Overrides commonly ignore masks, so calls with a weighted mask must bypass them."""
    seen: list[bool] = []

    def override(func, *args, **kwargs):
        seen.append(kwargs.get("mask") is not None)
        return func(*args, **kwargs)

    model = graph.apply(graph.model, *graph.two_references())
    expected = graph.sample(model)
    overridden = model.clone()
    overridden.model_options["transformer_options"]["optimized_attention_override"] = override
    assert torch.equal(graph.sample(overridden), expected)
    assert len(seen) > 100 and not any(seen)


def test_a_bias_is_computed_as_precisely_as_requested(graph: Graph, pack, monkeypatch) -> None:
    """Where ComfyUI asks for float32 attention, calls with a bias use it too."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 9, 32, generator=generator).half() * 8 for _ in range(3))
    bias = torch.randn(9, generator=generator)
    types = []
    computed = pack.sampling.run.host_attention.TorchAttend.__call__
    monkeypatch.setattr(
        pack.sampling.run.host_attention.TorchAttend,
        "__call__",
        lambda attend, q, *args: types.append(q.dtype) or computed(attend, q, *args),
    )
    for precision in (None, torch.float32):
        attend = pack.sampling.run.host_attention.HostAttention({"n_heads": 2, "attn_precision": precision})
        assert attend(q, k, v, bias.half()).dtype == torch.float16
    assert types == [torch.float16, torch.float32]


def test_tiles_of_the_latent_are_refused(graph: Graph) -> None:
    def tiles(apply_model, args):
        halves = args["input"].chunk(2, dim=-1)
        return torch.cat([apply_model(half, args["timestep"], **args["c"]) for half in halves], dim=-1)

    model = graph.apply(graph.model, *graph.two_references())
    model.set_model_unet_function_wrapper(tiles)
    with pytest.raises(
        graph.sampling_error, match=r"MagicFace: the UNet was called with a latent of .* into tiles; remove it"
    ):
        graph.sample(model)


@pytest.mark.rounding
def test_groups_of_references_are_halved_when_memory_runs_out(graph: Graph, pack, monkeypatch) -> None:
    """The references run in smaller groups from then on, so memory does not run out again in the same run."""
    real = pack.sampling.references.reference_pass.ReferencePass.through_unet
    sizes: list[int] = []

    def scarce(self, group, *args):
        sizes.append(len(group))
        if len(group) > 1:
            raise comfy.model_management.OOM_EXCEPTION("no room for two")
        return real(self, group, *args)

    hat, scarf = graph.reference("hat"), graph.reference("scarf")
    model = graph.apply(graph.model, hat, scarf, schedule=graph.schedule(keep_mb=0))
    latent, expected = lead(pack, model, graph.sample)
    monkeypatch.setattr(pack.sampling.references.reference_pass.ReferencePass, "through_unet", scarce)
    _, in_halves = follow(pack, model, graph.sample, expected)
    assert_same(in_halves, expected, rtol=0, atol=1e-4 * float(latent.abs().max()))
    assert sizes[:3] == [2, 1, 1] and set(sizes[3:]) == {1}


def test_a_mask_that_becomes_empty_is_logged(graph: Graph, caplog) -> None:
    """By nearest, this pixel is one of those that the 8x8 grid takes, and none of the 4x4 grid's."""
    mask = torch.zeros(1, 128, 128)
    mask[0, 16, 16] = 1.0
    thin = graph.reference("hat", mask=mask)
    with caplog.at_level(logging.WARNING, logger="magicface"):
        seen = graph.sample(graph.apply(graph.model, graph.mask_weight(thin, resize="area")))
        assert not [r for r in caplog.records if "has no pixel" in r.message]
        unseen = graph.sample(graph.apply(graph.model, graph.mask_weight(thin, resize="nearest")))
    logged = [record.message for record in caplog.records if "has no pixel" in record.message]
    assert logged and all("'hat'" in message and "4x4" in message and "resize to area" in message for message in logged)
    assert not torch.equal(seen, unseen)
