"""Whatever other nodes do, a run that does less than it was asked for says so, and says what is true."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_custom_sampler as custom

import nodes as core_nodes

from .graph import Graph, call, picture
from .stand_ins import attention_of, forward_of_block, forwards, windows
from .test_sampling_forms import PIECES, sample_steps

pytestmark = pytest.mark.usefixtures("as_node")

KEY = "test"
PREVIEW = "MagicFaceSegmentationPreview"


def note(graph: Graph, samples: torch.Tensor) -> str:
    return graph.note(PREVIEW, latent={"samples": samples}, step=-1)


def patched(graph: Graph, *references: Any, **schedule: Any) -> Any:
    """The model with both references, or with these, and without guidance."""
    given = references or graph.two_references()
    return graph.apply(graph.model, *given, schedule=graph.schedule(semantic_guidance=False, **schedule))


def with_forwards(model: Any, make: Callable[[], dict[Any, Any]]) -> Any:
    """A model whose modules have other forwards while it samples."""
    model = model.clone()

    def around(run: Any, *args: Any, **kwargs: Any) -> Any:
        with forwards(make()):
            return run(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around)
    return model


def blocks(graph: Graph) -> list[Any]:
    return [module for module in graph.model.model.diffusion_model.modules() if hasattr(module, "attn1")]


def without_uuids(apply: Any, args: dict[str, Any]) -> torch.Tensor:
    options = {name: given for name, given in args["c"]["transformer_options"].items() if name != "uuids"}
    return apply(args["input"], args["timestep"], **{**args["c"], "transformer_options": options})


# The cache


def test_the_cache_knows_replaced_forwards(graph: Graph) -> None:
    """Keys and values computed with another node's forwards are not found without them."""
    norms = [block.norm1 for block in blocks(graph)]

    def louder(norm: Any) -> Any:
        return lambda x: 1.5 * type(norm).forward(norm, x)

    expected = graph.sample(patched(graph))
    cached = patched(graph, keep_mb=200)
    try:
        graph.sample(with_forwards(cached, lambda: {norm: louder(norm) for norm in norms}))
        assert torch.equal(graph.sample(cached), expected)
        assert torch.equal(graph.sample(cached), expected)
    finally:
        graph.pack.sampling.references.cache.REFERENCE_CACHE.clear()


# What did not act


def test_a_weight_for_a_stage_that_never_comes(graph: Graph) -> None:
    hat, scarf = graph.two_references()
    later = graph.mask_weight(hat, weight=0.0, injection_weight=3.0)
    without = graph.sample(patched(graph, scarf, switch=1.0))
    latent = graph.sample(patched(graph, later, scarf, switch=1.0))
    assert torch.equal(latent, without)
    assert "reference 'hat' had no effect: its weight is 0 in the only stage that this run has (layout)" in note(
        graph, latent
    )
    assert "had no effect" not in note(graph, graph.sample(patched(graph, later, scarf)))


def test_a_prompt_that_is_changed_on_the_way(graph: Graph) -> None:
    """From the second step on, another node gives the conds new identities."""

    def later(run: Any, model: Any, conds: Any, x: Any, timestep: torch.Tensor, options: Any) -> Any:
        if timestep[0] < 5:
            conds = [listed and [{**cond, "uuid": uuid.uuid4()} for cond in listed] for listed in conds]
        return run(model, conds, x, timestep, options)

    model = patched(graph)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, later)
    assert "evaluations nothing attended to the references: another node changed" in note(graph, graph.sample(model))


def test_calls_without_their_options(graph: Graph) -> None:
    """In a whole run, and in the second piece of one."""
    model = patched(graph)
    first = sample_steps(graph, 0, 2)(model)
    model.set_model_unet_function_wrapper(without_uuids)
    whole = graph.sample(model)
    piece = sample_steps(graph, 2, PIECES, first)(model)["samples"]
    for latent in (whole, piece):
        assert "no call of the UNet carried the positive prompt" in note(graph, latent)
        assert "attended to all references" not in note(graph, latent)


def test_a_prompt_that_is_on_at_no_step(graph: Graph) -> None:
    late = call(core_nodes.ConditioningSetTimestepRange, conditioning=graph.prompt(), start=0.2, end=0.21)[0]
    latent = graph.sample(patched(graph), late, steps=2)
    assert torch.equal(latent, graph.sample(graph.model, late, steps=2))
    assert "the positive prompt is on at none of the run's noise levels" in note(
        graph, graph.sample(patched(graph), late, steps=2)
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_rows_that_are_split_with_the_same_options(graph: Graph, batch: int) -> None:
    """It is not known which rows are which, so none attends to the references: the picture is the unpatched one."""

    def halves(apply: Any, args: dict[str, Any]) -> torch.Tensor:
        count = len(args["input"])

        def part(rows: slice) -> torch.Tensor:
            c = {name: x[rows] if torch.is_tensor(x) and len(x) == count else x for name, x in args["c"].items()}
            return apply(args["input"][rows], args["timestep"][rows], **c)

        return torch.cat([part(slice(0, count // 2)), part(slice(count // 2, count))])

    model, plain = patched(graph), graph.model.clone()
    for each in (model, plain):
        each.set_model_unet_function_wrapper(halves)
    latent = graph.sample(model, batch=batch)
    assert "MagicFace leaves these calls alone" in note(graph, latent)
    assert torch.equal(latent, graph.sample(plain, batch=batch))


def test_a_run_without_steps(graph: Graph) -> None:
    """With attention to be recorded too."""
    model = graph.apply(graph.model, *graph.two_references(), record=graph.record(steps="-1"))
    sigmas = call(custom.BasicScheduler, model=model, scheduler="normal", steps=3, denoise=1.0)[0]
    none = call(custom.SplitSigmas, sigmas=sigmas, step=0)[0]
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(8))
    euler = comfy.samplers.sampler_object("euler")
    assert "the method did nothing, because the run has no steps" in note(
        graph, custom_sample(graph, model, euler, none, latent)
    )


def custom_sample(graph: Graph, model: Any, sampler: Any, sigmas: Any, latent: torch.Tensor) -> torch.Tensor:
    inputs = {"positive": graph.prompt(), "negative": graph.text(), "sampler": sampler, "sigmas": sigmas}
    given = {**inputs, "latent_image": {"samples": latent}, "add_noise": True, "noise_seed": 1, "cfg": 5.0}
    samples: torch.Tensor = call(custom.SamplerCustom, model=model, **given)[0]["samples"]
    return samples


def test_wrappers_removed_while_sampling(graph: Graph) -> None:
    model = patched(graph)

    def reset(run: Any, *args: Any, **kwargs: Any) -> Any:
        run.class_obj.model_options = comfy.model_patcher.create_model_options_clone(graph.model.model_options)
        return run(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, reset)
    latent = graph.sample(model)
    assert "another node removed MagicFace's wrappers from the run" in note(graph, latent)


def test_a_sampler_that_reports_no_steps(graph: Graph) -> None:
    """The last regions are shown, and the note says why."""

    def quiet(
        model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None
    ) -> Any:
        for level, after in pairwise(sigmas):
            x = x + (x - model(x, level * x.new_ones([len(x)]), **(extra_args or {}))) / level * (after - level)
        return x

    model = graph.apply(graph.model, *graph.two_references())
    sigmas = call(custom.BasicScheduler, model=model, scheduler="normal", steps=3, denoise=1.0)[0]
    latent = custom_sample(graph, model, comfy.samplers.KSAMPLER(quiet), sigmas, torch.zeros(1, 4, 16, 16))
    masks = graph.run(PREVIEW, latent={"samples": latent}, step=-1)[1]
    assert masks.any() and "the sampler reports no steps" in note(graph, latent)


# What other forwards do


def test_windows_of_which_one_is_skipped(graph: Graph) -> None:
    """Two images have no maps in the first evaluation, so it has no regions; the second one has."""
    calls: list[None] = []

    def skip(apply: Any, args: dict[str, Any]) -> torch.Tensor:
        calls.append(None)
        return (
            torch.zeros_like(args["input"]) if len(calls) == 2 else apply(args["input"], args["timestep"], **args["c"])
        )

    model = graph.apply(graph.model, *graph.two_references())
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, windows(0, 4))
    model.set_model_unet_function_wrapper(skip)
    latent = graph.sample(model, batch=4, steps=2)
    assert torch.isfinite(latent).all()
    assert [len(steps) for steps in graph.regions_by_step(latent)] == [1] * 4


def test_a_forward_without_self_attention(graph: Graph) -> None:
    """The reference pass cannot read keys and values, and says whose forward it is."""

    def no_self_attention(block: Any) -> Any:
        return lambda x, context=None, transformer_options={}: forward_of_block(
            block, x, context, transformer_options, lambda tokens, context, options: 0 * tokens
        )

    model = with_forwards(patched(graph), lambda: {block: no_self_attention(block) for block in blocks(graph)})
    with pytest.raises(
        graph.sampling_error, match=r"references failed: the self-attention of .* was not reached.*test_told"
    ):
        graph.sample(model, steps=1)


def test_cross_attention_that_is_called_again(graph: Graph) -> None:
    """The first call after self-attention counts for the regions."""

    def twice(block: Any) -> Any:
        def forward(x: Any, context: Any = None, transformer_options: Any = None) -> Any:
            tokens = block.norm1(x)
            x = x + attention_of(block.attn1, "attn1")(tokens, tokens, transformer_options)
            cross = attention_of(block.attn2, "attn2")
            x = x + sum(0.5 * cross(block.norm2(x), context, transformer_options) for _ in range(2))
            return x + block.ff(block.norm3(x))

        return forward

    model = with_forwards(patched(graph), lambda: {block: twice(block) for block in blocks(graph)})
    latent = graph.sample(model)
    assert len(graph.regions_by_step(latent)[0]) == 3


# What is shown


@pytest.mark.parametrize("node", [PREVIEW, "MagicFaceAttentionView", "MagicFaceCorrespondence"])
@pytest.mark.parametrize(
    "what", ["grey", "two channels", "five dimensions", "no height", "not finite", "nested", "no samples", "nothing"]
)
def test_views_of_anything(graph: Graph, node: str, what: str) -> None:
    """A note and a finite picture, whatever comes in."""
    samples = graph.sample(graph.apply(graph.model, *graph.two_references(), record=graph.record(steps="0")), steps=1)
    shown = picture(5)
    images = {
        "grey": shown[..., :1],
        "two channels": shown[..., :2],
        "five dimensions": shown[None],
        "no height": shown[:, :0],
        "not finite": shown * float("nan"),
    }
    latents = {"nested": {"samples": NestedTensor([samples, samples])}, "no samples": {}, "nothing": None}
    output = graph.run(node, latent=latents.get(what, {"samples": samples}), image=images.get(what))
    assert output[0].ndim == 4 and output[0].shape[-1] == 3 and torch.isfinite(output[0]).all()
    assert output.ui["images"] and (what in ("grey", "two channels", "not finite") or output.ui["text"])


def test_a_previewer_that_fails_does_not_end_the_run(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def decode_latent_to_preview_image(self, *given: Any) -> Any:
            raise RuntimeError("no preview")

    expected = graph.sample(graph.apply(graph.model, *graph.two_references()))
    live = graph.pack.nodes.live_preview
    monkeypatch.setattr(live.latent_preview, "get_previewer", lambda *given: Broken())
    monkeypatch.setattr(live.latent_preview, "prepare_callback", lambda *given: lambda *args: None)
    assert torch.equal(graph.sample(graph.apply(graph.model, *graph.two_references(), live_regions=True)), expected)


@pytest.mark.parametrize("scale", [255.0, -1.0])
def test_pictures_of_other_ranges_are_refused(graph: Graph, scale: float) -> None:
    with pytest.raises(ValueError, match=r"MagicFaceReference: image: has values from .* numbers from 0 to 1"):
        graph.reference(image=scale * picture(1))
    graph.reference(image=1.1 * picture(1) - 0.05)
