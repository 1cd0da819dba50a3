"""Other region sources: a run without regions, and a run with fixed regions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from oracle.regions import guidance_rate
from torch import Tensor

from .graph import Graph

pytestmark = pytest.mark.usefixtures("as_node")

CFG, STEPS = 5.0, 3
HALF = 4  # columns of the r = 2 grid, which is 8 wide


@dataclass
class FixedRegions:
    """A region source that is its own finder: the hat has the left half, the scarf the right half but its last row.

    Its labels are 0 for the left half, 5 for the right one, and 2 for the last row of the right one. The foreground is
    everything but the first row.
    """

    pack: Any
    blocks: tuple[()] = ()
    places: None = None

    def __call__(self, method: Any, shape: Any) -> FixedRegions:
        return self

    def new_maps(self, row: Any, size_lat: Any, images: Any) -> None:
        return None

    def regions(self, conds: Any, device: torch.device) -> Any:
        labels = torch.zeros(1, 8, 8, dtype=torch.int64)
        labels[:, :, HALF:] = 5
        labels[:, -1, HALF:] = 2
        concepts = torch.where(labels == 5, 1, labels)
        concepts[labels == 2] = -1
        foreground = torch.ones(1, 8, 8, dtype=torch.bool)
        foreground[:, 0] = False
        return self.pack.attention.regions.Regions(labels, concepts, foreground, 6)


def model_of(graph: Graph, source: Any, references: list[Any] | None = None, **schedule: Any) -> Any:
    """The model with the method bound to a region source."""
    sampling = graph.pack.sampling
    given = tuple(references or graph.two_references())
    settings = sampling.method.Schedule(**{"refresh": 0.0, **schedule})
    method = sampling.patch.bind(graph.model, given, settings, region_source=source)
    return sampling.patch.patch_model(graph.model, method)


def test_without_regions_the_layout_stage_goes_on(graph: Graph) -> None:
    """The run equals, bit for bit, one with only a layout stage and no guidance; the preview has nothing to show."""
    sources = graph.pack.sampling.regions
    with_guidance = graph.sample(model_of(graph, sources.source.NoRegions))
    assert torch.equal(with_guidance, graph.sample(model_of(graph, sources.source.NoRegions, guidance=False)))
    layout_only = graph.schedule(switch=1.0, semantic_guidance=False)
    assert torch.equal(
        with_guidance, graph.sample(graph.apply(graph.model, *graph.two_references(), schedule=layout_only))
    )
    assert not torch.equal(with_guidance, graph.sample(model_of(graph, sources.segmenter.Segmenter)))
    assert graph.regions_by_step(graph.sample(model_of(graph, sources.source.NoRegions), seed=9)) == [[]]


def test_without_regions_blend_weights_count_from_the_switch_on(graph: Graph) -> None:
    """The stage still decides which weight of a reference is in use."""
    none = graph.pack.sampling.regions.source.NoRegions
    hat, scarf = graph.two_references()
    other = [replace(hat, blend_weight=0.5), scarf]
    assert not torch.equal(graph.sample(model_of(graph, none, other)), graph.sample(model_of(graph, none)))
    late = graph.sample(model_of(graph, none, other, switch=1.0))
    assert torch.equal(late, graph.sample(model_of(graph, none, switch=1.0)))


def test_a_run_without_regions_reads_no_attention_maps(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    unet_call = graph.pack.sampling.run.unet_call
    monkeypatch.setattr(unet_call, "cross_attention_map", lambda *_: pytest.fail("read"))
    graph.sample(model_of(graph, graph.pack.sampling.regions.source.NoRegions))


def test_fixed_regions_are_recorded_in_the_region_history(graph: Graph) -> None:
    source = FixedRegions(graph.pack)
    expected = source.regions({}, torch.device("cpu")).concepts[0]
    steps = graph.regions_by_step(graph.sample(model_of(graph, source)))[0]
    assert len(steps) == STEPS and all(torch.equal(step, expected) for step in steps)


def attention_in_blend_stage(graph: Graph, references: list[Any]) -> Tensor:
    """The self-attention of the only injection block for the positive prompt in the second evaluation: (n, c).

    The first evaluation, which has no regions yet, returns zeros, so that the latent of the second one does not depend
    on the references.
    """
    model = model_of(
        graph, FixedRegions(graph.pack), references, switch=0.0, guidance=False, injection_blocks="output.3.0"
    )
    evaluations: list[None] = []
    seen: list[Tensor] = []

    def predict(run: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        evaluations.append(None)
        denoised = run(x, *args, **kwargs)
        return torch.zeros_like(denoised) if len(evaluations) == 1 else denoised

    def unet_call(run: Any, x: Tensor, timesteps: Tensor, context: Any, y: Any, control: Any, options: Any) -> Tensor:
        def attended(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            if len(evaluations) == 2 and 0 in options["cond_or_uncond"]:
                seen.append(inputs[0][options["cond_or_uncond"].index(0)].clone())

        attn1 = graph.model.model.diffusion_model.output_blocks[3][1].transformer_blocks[0].attn1
        handle = attn1.to_out.register_forward_pre_hook(attended)
        try:
            return run(x, timesteps, context, y, control, options)
        finally:
            handle.remove()

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", predict)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", unet_call)
    graph.sample(model, steps=2)
    [found] = seen
    return found


@pytest.mark.parametrize("changed", [0, 1])
def test_fixed_regions_steer_the_blend_stage(graph: Graph, changed: int) -> None:
    """Another reference changes the attention of every query in its region, and not a bit of the others."""
    references, regions = graph.two_references(), FixedRegions(graph.pack).regions({}, torch.device("cpu"))
    before = attention_in_blend_stage(graph, references)
    references[changed] = graph.mask_weight(references[changed], weight=1.0)
    differs = (attention_in_blend_stage(graph, references) != before).any(dim=-1)
    assert torch.equal(differs, (regions.concepts[0] == changed).flatten())


def evaluate_once(graph: Graph, model: Any, x: Tensor) -> Tensor:
    """One evaluation of a model from a latent at the first noise level."""
    made: list[Tensor] = []
    model = model.clone()
    model.add_wrapper_with_key(
        WrappersMP.PREDICT_NOISE, "test", lambda run, *args, **kwargs: made.append(run(*args, **kwargs)) or made[-1]
    )
    sigmas = comfy.samplers.calculate_sigmas(graph.model.get_model_object("model_sampling"), "normal", STEPS)
    euler = comfy.samplers.sampler_object("euler")
    comfy.sample.sample_custom(
        model, x, CFG, euler, sigmas, graph.prompt(), graph.text(), torch.zeros_like(x), disable_pbar=True, seed=1
    )
    return made[0]


def test_guidance_uses_the_labels_of_the_source(graph: Graph) -> None:
    """The first evaluation with guidance equals the one without it, scaled by the oracle's rate for these labels."""
    source, seen = FixedRegions(graph.pack), []
    x = comfy.sample.prepare_noise(torch.zeros(1, 4, 16, 16), 1)
    plain = model_of(graph, source, guidance=False)
    plain.set_model_sampler_post_cfg_function(
        lambda args: seen.append((args["cond_denoised"], args["uncond_denoised"])) or args["denoised"]
    )
    without = evaluate_once(graph, plain, x)
    delta = seen[0][0] - seen[0][1]
    regions = source.regions({}, torch.device("cpu"))
    rate = guidance_rate(delta[0], regions.labels[0], regions.foreground[0], regions.label_count, CFG)
    expected = without + CFG * (rate.to(delta) - 1) * delta
    found = evaluate_once(graph, model_of(graph, source), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - without).abs().max() > 0.01
