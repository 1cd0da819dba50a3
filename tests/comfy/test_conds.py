"""Conds in every arrangement: in one call or several, combined, in areas and masks, one after the other."""

from __future__ import annotations

from dataclasses import replace

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_extras.nodes_hooks import ConditioningSetDefaultAndCombine

import nodes as core_nodes

from .comparison import Case, PlainGuider, negative_of, patch_model, plain_program, positive_of, references
from .graph import call
from .steering import assert_same, assert_same_labels, assert_same_regions, follow, lead

pytestmark = pytest.mark.usefixtures("as_node")

SIZE = (16, 16)
HAT_TEXT, SCARF_TEXT = "a boy wearing a hat", "a man and a scarf"  # each word at position 5
LONG_TEXT = HAT_TEXT + " and" * 80
LEFT, RIGHT = {"width": 64, "height": 128, "x": 0, "y": 0}, {"width": 64, "height": 128, "x": 64, "y": 0}


def combine_all(*conditionings):
    """Combine all with Conditioning (Combine)."""
    first, *others = conditionings
    for other in others:
        first = call(core_nodes.ConditioningCombine, conditioning_1=first, conditioning_2=other)[0]
    return first


def half_mask(left):
    mask = torch.zeros(1, 128, 128)
    mask[:, :, : 64 if left else 128] = 1.0
    return mask if left else mask - half_mask(True)


def regions_of(graph, latent):
    return torch.stack(graph.regions_by_step(latent)[0])


def first_regions(graph, case, x):
    """The regions that the plain program finds in the first evaluation."""
    program = plain_program(graph, case, references(graph, case.references))
    return program.evaluate(x, 14.6146, None)[1]


def assert_halves(concepts, left, right):
    """Assert that each half of a picture has the concepts that the plain program finds there."""
    expected, margin = (
        torch.cat([getattr(left, name)[:, :4], getattr(right, name)[:, -4:]], dim=1) for name in ("concepts", "margin")
    )
    assert_same_labels(concepts, expected, margin)


def assert_plain(graph, case, given, model):
    """Assert that a run with the defaults has the latent and the regions of the plain program."""
    ours, evaluations = lead(
        graph.pack,
        model,
        lambda model: graph.sample(model, positive_of(graph, case), negative_of(graph, case), cfg=case.cfg),
    )
    program = PlainGuider(plain_program(graph, case, given), graph.model, evaluations)
    sigmas = comfy.samplers.KSampler(graph.model, 3, "cpu", "euler", "normal").sigmas
    latent = torch.zeros(1, 4, *SIZE)
    theirs = program.sample("euler", sigmas, comfy.sample.prepare_noise(latent, 1), latent, 1, disable_pbar=True)
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()
    assert torch.equal(graph.regions_by_step(ours)[0][-1], evaluations[-1].regions.concepts[0])


def split_up(model, order):
    """Add another pack's wrapper, inside MagicFace's: each list of conds gets a call of its own, in this order."""

    def one_by_one(executor, inner, conds, x, timestep, options):
        out = [None] * len(conds)
        for index in order:
            alone = [listed if index == other else None for other, listed in enumerate(conds)]
            out[index] = executor(inner, alone, x, timestep, options)[index]
        return out

    def outer(executor, *args, **kwargs):
        options = executor.class_obj.model_options
        add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test", one_by_one, options, is_model_options=True)
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "test", outer)
    return model


def unet_calls(model):
    """The model, and a list that gets the `cond_or_uncond` of each UNet call for the target."""
    calls = []

    def wrapper(executor, x, timesteps, context, y, control, options, **kwargs):
        calls.append(tuple(options["cond_or_uncond"]))
        return executor(x, timesteps, context, y, control, options, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    return model, calls


@pytest.mark.rounding
@pytest.mark.parametrize("how", ["positive first", "negative first", "memory for one"])
def test_conds_in_one_call_or_two_give_the_same_picture(graph, how, monkeypatch):
    model = graph.apply(graph.model, *graph.two_references())
    _, together = lead(graph.pack, model, lambda model: graph.sample(model, batch=2))
    if how == "memory for one":
        monkeypatch.setattr(model.model, "memory_required", lambda shape, **_: 1e30 if shape[0] > 2 else 0)
    else:
        model = split_up(model, (0, 1) if how == "positive first" else (1, 0))
    model, calls = unet_calls(model)
    _, apart = follow(graph.pack, model, lambda model: graph.sample(model, batch=2), together)
    assert calls == [(0,), (1,)] * 3 if how == "positive first" else calls == [(1,), (0,)] * 3
    assert_same(apart, together)


@pytest.mark.rounding
def test_prompts_of_different_lengths_get_calls_of_their_own(graph):
    case = Case(size=SIZE, negative="bad " * 460, starts=((0,), tuple(range(0, 7 * 77, 77))))
    given = references(graph, case.references)
    model, calls = unet_calls(patch_model(graph, case, given))
    assert_plain(graph, case, given, model)
    assert {len(call) for call in calls} == {1}


@pytest.mark.rounding
def test_a_prompt_combined_with_itself_gives_the_same_picture(graph):
    model, positive, negative = graph.apply(graph.model, *graph.two_references()), graph.prompt(), graph.text()
    _, alone = lead(graph.pack, model, lambda model: graph.sample(model, positive, negative))
    for twice in ((combine_all(positive, positive), negative), (positive, combine_all(negative, negative))):
        assert_same(follow(graph.pack, model, lambda model, twice=twice: graph.sample(model, *twice), alone)[1], alone)


@pytest.mark.rounding
def test_combined_with_a_prompt_that_names_no_concept(graph):
    """A cond that does not come from MagicFace Prompt also attends to the references, but finds no regions."""
    model = graph.apply(graph.model, *graph.two_references())
    (alone, of_alone), (both, of_both) = (
        lead(graph.pack, model, lambda model, cond=cond: graph.sample(model, cond))
        for cond in (graph.prompt(), combine_all(graph.prompt(), graph.text("a man")))
    )
    assert_same_regions(of_both[0], of_alone[0])
    assert (both - alone).abs().max() > 0.1


@pytest.mark.parametrize("node", ["Concat", "Average"])
def test_merged_conditionings_equal_the_plain_program(graph, node):
    def through(graph, positive):
        inputs = {"conditioning_to": positive, "conditioning_from": graph.text("a man in a park")}
        if node == "Average":
            inputs["conditioning_to_strength"] = 0.7
        return call(getattr(core_nodes, f"Conditioning{node}"), **inputs)[0]

    case = Case(size=SIZE, through=through, starts=((0, 77) if node == "Concat" else (0,), (0,)))
    given = references(graph, case.references)
    assert_plain(graph, case, given, patch_model(graph, case, given))


@pytest.mark.rounding
@pytest.mark.parametrize(
    ("kind", "negative", "hat_text"),
    [
        ("area", "words", HAT_TEXT),
        ("mask", "words", HAT_TEXT),
        ("mask bounds", "words", HAT_TEXT),
        ("mask", "words", LONG_TEXT),
        ("area", "words", LONG_TEXT),
        ("mask", "zeroed", HAT_TEXT),
        ("area", "zeroed", HAT_TEXT),
    ],
    ids=lambda value: "long" if value == LONG_TEXT else "short" if value == HAT_TEXT else value,
)
def test_each_half_has_the_regions_of_its_prompt(graph, kind, negative, hat_text):
    """Each prompt is segmented on the part that it sees, then cut to the part where it applies."""

    def placed(conditioning, left):
        if kind == "area":
            return call(core_nodes.ConditioningSetArea, conditioning=conditioning, **(LEFT if left else RIGHT))[0]
        bounds = "default" if kind == "mask" else kind
        mask = half_mask(left)
        return call(core_nodes.ConditioningSetMask, conditioning=conditioning, mask=mask, set_cond_area=bounds)[0]

    case = Case(size=SIZE, negative_counts=negative == "words", guidance=False, picture=SIZE)
    long = hat_text is LONG_TEXT
    hat = replace(case, prompt=hat_text, positions=((5,), ()), starts=((0, 77) if long else (0,), (0,)))
    scarf = replace(case, prompt=SCARF_TEXT, positions=((), (5,)))
    model = patch_model(graph, case, references(graph, case.references))
    both = combine_all(placed(graph.prompt(hat_text), True), placed(graph.prompt(SCARF_TEXT), False))
    found = regions_of(graph, graph.sample(model, both, negative_of(graph, case)))

    x = comfy.sample.prepare_noise(torch.zeros(1, 4, *SIZE), 1) * (1 + 14.6146**2) ** 0.5
    crops = (x, x) if kind == "mask" else (x[..., :8], x[..., 8:])
    assert_halves(found[0], *(first_regions(graph, of, crop) for of, crop in zip((hat, scarf), crops, strict=True)))
    assert 0 not in found[..., 4:] and 1 not in found[..., :4]
    assert {0, 1} <= set(found.flatten().tolist())


def test_a_default_prompt_fills_what_the_others_leave(graph):
    """The default prompt names the later concept, which gets no pixel where the other prompt applies."""
    case = Case(size=SIZE, guidance=False, picture=SIZE)
    hat = replace(case, prompt=HAT_TEXT, positions=((5,), ()))
    scarf = replace(case, prompt=SCARF_TEXT, positions=((), (5,)))
    model = patch_model(graph, case, references(graph, case.references))
    left = {"conditioning": graph.prompt(HAT_TEXT), "mask": half_mask(True), "set_cond_area": "default"}
    both = call(
        ConditioningSetDefaultAndCombine,
        cond=call(core_nodes.ConditioningSetMask, **left)[0],
        cond_DEFAULT=graph.prompt(SCARF_TEXT),
    )[0]
    found = regions_of(graph, graph.sample(model, both, negative_of(graph, case)))

    x = comfy.sample.prepare_noise(torch.zeros(1, 4, *SIZE), 1) * (1 + 14.6146**2) ** 0.5
    assert_halves(found[0], *(first_regions(graph, of, x) for of in (hat, scarf)))
    assert 1 not in found[..., :4] and 0 not in found[..., 4:]
    assert {0, 1} <= set(found.flatten().tolist())


@pytest.mark.rounding
def test_an_area_of_the_whole_picture_changes_nothing(graph):
    model = graph.apply(graph.model, *graph.two_references())
    everything = {"width": 128, "height": 128, "x": 0, "y": 0}
    whole = call(core_nodes.ConditioningSetArea, conditioning=graph.prompt(), **everything)[0]
    _, expected = lead(graph.pack, model, graph.sample)
    assert_same(follow(graph.pack, model, lambda model: graph.sample(model, whole), expected)[1], expected)


def test_prompts_one_after_the_other(graph):
    model = graph.apply(graph.model, *graph.two_references())
    turns = [
        call(core_nodes.ConditioningSetTimestepRange, conditioning=graph.prompt(text), start=start, end=end)[0]
        for text, start, end in ((HAT_TEXT, 0.0, 0.4), (SCARF_TEXT, 0.4, 1.0))
    ]
    found = regions_of(graph, graph.sample(model, combine_all(*turns), steps=4))
    assert len(found) == 4
    for step, own in enumerate((0, 0, 1, 1)):
        assert own in found[step] and 1 - own not in found[step]
