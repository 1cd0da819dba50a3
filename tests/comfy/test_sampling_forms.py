"""Every way of sampling: samplers with several evaluations per step, partial runs, masks, other guiders."""

from __future__ import annotations

import logging
from itertools import pairwise

import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
from comfy_extras.nodes_perpneg import PerpNegGuider

import nodes as core_nodes

from .comparison import Case, PlainGuider, negative_of, patch_model, plain_program, positive_of, references
from .graph import assert_acts, call, picture
from .steering import assert_same, assert_same_regions, follow, lead

pytestmark = [
    pytest.mark.usefixtures("as_node"),
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # torchsde warns about the last bit of a time
]

SIZE = (16, 16)
STEPS = 3


def sample_both(graph, case, sampler, scheduler, *, steps=STEPS, denoise=1.0, latent=None, mask=None):
    """Two latents: of the product with a KSampler, and of the plain program with the same ComfyUI sampler."""
    given = references(graph, case.references)
    latent = torch.zeros(1, 4, *case.size) if latent is None else latent

    def sample(model):
        return graph.sample(
            model,
            positive_of(graph, case),
            negative_of(graph, case),
            latent={"samples": latent} if mask is None else {"samples": latent, "noise_mask": mask},
            sampler_name=sampler,
            scheduler=scheduler,
            steps=steps,
            denoise=denoise,
            cfg=case.cfg,
        )

    ours, evaluations = lead(graph.pack, patch_model(graph, case, given), sample)
    assert torch.equal(graph.regions_by_step(ours)[0][-1], evaluations[-1].regions.concepts[0])
    program = PlainGuider(plain_program(graph, case, given), graph.model, evaluations)
    sigmas = comfy.samplers.KSampler(graph.model, steps, "cpu", sampler, scheduler, denoise).sigmas
    noise = comfy.sample.prepare_noise(latent, 1)
    theirs = program.sample(sampler, sigmas, noise, latent, 1, denoise_mask=mask, disable_pbar=True)
    return ours, theirs


def assert_same_latent(ours, theirs):
    assert torch.isfinite(theirs).all()
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


@pytest.mark.parametrize(
    ("sampler", "scheduler", "cfg"),
    [
        ("heun", "karras", 6.0),
        ("dpmpp_2s_ancestral", "exponential", 6.0),
        ("dpmpp_sde", "sgm_uniform", 6.0),
        ("euler_ancestral", "karras", 6.0),
        ("uni_pc", "exponential", 6.0),
        ("lcm", "sgm_uniform", 1.0),
        ("euler_cfg_pp", "karras", 1.5),
    ],
)
def test_samplers_and_schedulers_equal_the_plain_program(graph, sampler, scheduler, cfg):
    case = Case(size=SIZE, cfg=cfg)
    assert_same_latent(*sample_both(graph, case, sampler, scheduler))


@pytest.mark.parametrize("size", [(26, 38), (33, 47)])
def test_sizes_equal_the_plain_program(graph, size):
    assert_same_latent(*sample_both(graph, Case(size=size), "euler", "normal", steps=2))


def test_sampling_from_a_picture_equals_the_plain_program(graph):
    latent = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(2)) * 5
    assert_same_latent(*sample_both(graph, Case(size=SIZE), "euler", "karras", denoise=0.5, latent=latent))


def test_sampling_with_a_noise_mask(graph):
    latent = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(2)) * 5
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 4:12, 4:12] = 1.0
    ours, theirs = sample_both(graph, Case(size=SIZE), "euler", "normal", latent=latent, mask=mask)
    assert_same_latent(ours, theirs)
    torch.testing.assert_close((ours - latent) * (1 - mask), torch.zeros_like(latent), rtol=0, atol=1e-4)
    assert ((ours - latent) * mask).abs().max() > 1.0


PIECES = 4


def sample_steps(graph, start, end, latent=None, **inputs):
    """Samples some of four steps with a KSampler Advanced, from pure noise or from a latent as it is."""
    given = {
        "latent_image": latent or {"samples": torch.zeros(1, 4, *SIZE)},
        "add_noise": "disable" if latent else "enable",
        "start_at_step": start,
        "end_at_step": end,
        "return_with_leftover_noise": "enable" if end < PIECES else "disable",
        **{"positive": graph.prompt(), "negative": graph.text(), "cfg": 5.0, "noise_seed": 1, "steps": PIECES},
        **{"sampler_name": "euler", "scheduler": "normal", **inputs},
    }
    return lambda model: call(core_nodes.KSamplerAdvanced, model=model, **given)[0]


def blend_from_step_2(graph, **schedule):
    """The model with two references, of whose four steps the last two are in the blend stage."""
    return graph.apply(graph.model, *graph.two_references(), schedule=graph.schedule(switch=0.43, **schedule))


@pytest.fixture
def rules(graph, monkeypatch):
    """The labels of the injection rules in the order of use: None for RSA."""
    unet_call = graph.pack.sampling.run.unet_call.UNetCall
    original, seen = unet_call._rule, []

    def recorded(*args):
        rule = original(*args)
        seen.append(rule.labels)
        return rule

    monkeypatch.setattr(unet_call, "_rule", recorded)
    return seen


@pytest.mark.rounding
@pytest.mark.parametrize("splits", [(1,), (2,), (3,), (1, 2, 3)])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_pieces_equal_the_whole(graph, rules, splits, sampler):
    """A piece goes on with the regions that the piece before left under its latent."""
    model = blend_from_step_2(graph)
    latent, whole = lead(graph.pack, model, sample_steps(graph, 0, PIECES, sampler_name=sampler))
    expected, steps = list(rules), graph.regions_by_step(latent["samples"])[0]
    rules.clear()

    found, done, piece, regions = [], 0, None, []
    for start, end in pairwise((0, *splits, PIECES)):
        # The last step of a heun run is of first order, so pieces that end on the way have one evaluation more.
        sample = sample_steps(graph, start, end, piece, sampler_name=sampler)
        expected_here = whole[done:]
        piece, made = follow(graph.pack, model, sample, expected_here[: evaluations(sampler, start, end)])
        done += len(made)
        found += made
        regions += graph.regions_by_step(piece["samples"])[0]
    assert_same(found, whole)
    assert len(rules) == len(expected) and None in expected
    for one, other in zip(rules, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    assert len(regions) == len(steps) == PIECES


def evaluations(sampler, start, end):
    """How many evaluations some of four steps take; heun's last step to a noise level of 0 takes one."""
    return end - start if sampler == "euler" else 2 * (end - start) - (end == PIECES)


def other_noise(latent):
    return {"add_noise": "enable"}, latent


def another_level(latent):
    return {"start_at_step": 3}, latent


def mixed(latent):
    return {}, {"samples": 0.5 * latent["samples"] + 0.1}


@pytest.mark.parametrize("change", [other_noise, another_level, mixed])
def test_where_no_run_left_regions_they_are_found_first(graph, rules, change, caplog):
    """One more evaluation finds them in the layout stage; then all evaluations are in the blend stage."""
    model = blend_from_step_2(graph)
    inputs, latent = change(sample_steps(graph, 0, 2)(model))
    rules.clear()
    with caplog.at_level(logging.INFO, logger="magicface"):
        sample_steps(graph, 2, PIECES, latent, **inputs)(model)
    kinds = [label is None for label in rules]
    of_one = kinds.count(True)
    assert of_one and kinds == [True] * of_one + [False] * (len(kinds) - of_one)
    assert len(kinds) == of_one * (1 + PIECES - inputs.get("start_at_step", 2))
    assert [r.getMessage() for r in caplog.records if "one more evaluation finds the regions" in r.getMessage()]


def test_other_concepts_do_not_go_on_with_the_regions(graph, rules):
    """The second piece has the concepts in another order."""
    latent = sample_steps(graph, 0, 2)(blend_from_step_2(graph))
    rules.clear()
    other = graph.apply(graph.model, *reversed(graph.two_references()), schedule=graph.schedule(switch=0.43))
    sample_steps(graph, 2, PIECES, latent)(other)
    assert rules[0] is None and rules[-1] is not None


def test_the_evaluation_that_finds_regions_leaves_guidance_of_others_alone(graph):
    """Functions on predictions see the real evaluations only."""
    model, seen = blend_from_step_2(graph), []
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(1) or args["denoised"])
    picture = {"samples": torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(2))}
    sample_steps(graph, 2, PIECES, picture, add_noise="enable")(model)
    assert len(seen) == 2


def sample_advanced(graph, guider, sampler="euler"):
    """SamplerCustomAdvanced's latent, three steps with seed 1."""
    sigmas = call(custom.BasicScheduler, model=graph.model, scheduler="normal", steps=STEPS, denoise=1.0)[0]
    return call(
        custom.SamplerCustomAdvanced,
        noise=call(custom.RandomNoise, noise_seed=1)[0],
        guider=guider,
        sampler=call(custom.KSamplerSelect, sampler_name=sampler)[0],
        sigmas=sigmas,
        latent_image={"samples": torch.zeros(1, 4, *SIZE)},
    )[0]["samples"]


def test_guiders_of_one_prompt_equal_the_ksampler(graph):
    model, positive, negative = graph.apply(graph.model, *graph.two_references()), graph.prompt(), graph.text()
    guider = call(custom.CFGGuider, model=model, positive=positive, negative=negative, cfg=5.0)[0]
    assert torch.equal(sample_advanced(graph, guider), graph.sample(model, positive, negative))
    guider = call(custom.BasicGuider, model=model, conditioning=positive)[0]
    assert torch.equal(sample_advanced(graph, guider), graph.sample(model, positive, negative, cfg=1.0))


def guider_of_three(kind, model, positive, middle, negative):
    if kind == "perpneg":
        texts = {"positive": positive, "negative": negative, "empty_conditioning": middle}
        return call(PerpNegGuider, model=model, **texts, cfg=5.0, neg_scale=1.0)[0]
    texts = {"cond1": positive, "cond2": middle, "negative": negative}
    return call(custom.DualCFGGuider, model=model, **texts, cfg_conds=4.0, cfg_cond2_negative=2.0, style=kind)[0]


@pytest.mark.parametrize("kind", ["regular", "nested", "perpneg"])
def test_guiders_of_three_prompts(graph, kind, caplog):
    """References and regions work as usual; semantic guidance is off, and the log says so once."""
    texts = graph.prompt(), graph.text(""), graph.text()
    given = graph.two_references()
    vanilla = sample_advanced(graph, guider_of_three(kind, graph.model, *texts))
    model = graph.apply(graph.model, *given, schedule=graph.schedule())
    with caplog.at_level(logging.INFO, logger="magicface"):
        latent = sample_advanced(graph, guider_of_three(kind, model, *texts))
    assert sum("guidance" in record.message for record in caplog.records if record.name.startswith("magicface")) == 1
    assert (latent - vanilla).abs().max() > 1.0
    quiet = graph.apply(graph.model, *given, schedule=graph.schedule(semantic_guidance=False))
    assert torch.equal(sample_advanced(graph, guider_of_three(kind, quiet, *texts)), latent)

    # The first evaluation finds the regions that a KSampler's finds.
    _, ksampler = lead(graph.pack, model, lambda model: graph.sample(model, texts[0], texts[2]))
    _, ours = lead(graph.pack, model, lambda model: sample_advanced(graph, guider_of_three(kind, model, *texts)))
    assert len(ours) == len(graph.regions_by_step(latent)[0]) == STEPS
    assert_same_regions(ours[0], ksampler[0])


@pytest.mark.skipif(not hasattr(custom, "DualModelGuider"), reason="this ComfyUI has no guider of two models")
def test_a_guider_of_two_models(graph):
    """References, regions and stages belong to the positive prompt's model; the negative prompt uses the other one."""
    given = graph.two_references()
    texts = {"positive": graph.prompt(), "negative": graph.text(), "cfg": 5.0}

    def sample(model, other):
        return sample_advanced(graph, call(custom.DualModelGuider, model=model, model_negative=other, **texts)[0])

    latent = sample(graph.apply(graph.model, *given), graph.model)
    assert (latent - sample(graph.model, graph.model)).abs().max() > 1.0
    assert len(graph.regions_by_step(latent)[0]) == STEPS
    both = sample(graph.apply(graph.model, *given), graph.apply(graph.model, *given[:1]))
    assert torch.equal(both, latent)


def test_the_method_acts_in_the_refiner(graph_of):
    graph = graph_of("refiner")
    assert_acts(graph, graph.model, *graph.two_references())


def test_the_method_acts_in_an_inpainting_unet(graph_of):
    """Reference passes get no inpainting mask, since references are whole pictures."""
    graph = graph_of("inpaint")
    mask = torch.zeros(1, 128, 128)
    mask[:, 32:96, 32:96] = 1.0
    given = {"positive": graph.prompt(), "negative": graph.text(), "pixels": picture(7), "mask": mask}
    positive, negative, latent = call(core_nodes.InpaintModelConditioning, **given, vae=graph.vae, noise_mask=True)
    painted = assert_acts(
        graph, graph.model, *graph.two_references(), positive=positive, negative=negative, latent=latent
    )
    change = (painted - latent["samples"]).abs().mean(1)[0]
    assert change[:3].max() < 1e-3 and change[5:11, 5:11].min() > 0.01


def test_the_method_acts_in_a_second_pass_on_a_larger_latent(graph):
    """References encoded for the first pass work in the second one too, which has regions of its own."""
    references = graph.two_references()
    model = graph.apply(graph.model, *references)
    first = {"samples": graph.sample(model)}
    larger = call(core_nodes.LatentUpscaleBy, samples=first, upscale_method="bilinear", scale_by=1.5)[0]
    second = assert_acts(graph, graph.model, *references, latent=larger, denoise=0.6)
    assert second.shape[-2:] == (24, 24)
    assert graph.regions_by_step(second)[0][0].shape == (12, 12)
    assert graph.regions_by_step(first["samples"])[0][0].shape == (8, 8)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_each_image_of_a_batch_has_regions(graph, batch):
    latent = assert_acts(graph, graph.model, *graph.two_references(), batch=batch)
    assert len(latent) == len(graph.regions_by_step(latent)) == batch


@pytest.mark.parametrize("count", [1, 4, 10])
def test_the_method_acts_with_many_references(graph, count):
    """Each reference has its own size, aspect ratio and number of views; several have the same phrase."""
    sizes = [(128, 128), (192, 64), (64, 160)]
    references = []
    for number in range(count):
        height, width = sizes[number % 3]
        shown = picture(number, height, width, views=1 + number % 4)
        mask = torch.ones(len(shown), height, width)
        mask[:, : height // 2] = 0.0
        concept = "hat" if number % 2 else "scarf"
        references.append(graph.reference(concept, image=shown, mask=mask, weight=1.0 + number / 10))
    assert_acts(graph, graph.model, *references, steps=2)
