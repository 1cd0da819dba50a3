"""A whole run of the product equals the oracle's program, evaluation by evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from torch import Tensor

from .comparison import Case, assert_found, negative_of, patch_model, plain_program, positive_of, references, regions_of
from .graph import HAT, PROMPT, SCARF, Graph
from .steering import lead

pytestmark = [pytest.mark.usefixtures("as_node"), pytest.mark.rounding]

STEPS = 4  # two in each stage
LONG = "and " * 70 + PROMPT
LONG_HAT, LONG_SCARF = (
    HAT + 70,
    SCARF + 70 + 2,
)  # the second chunk begins after 75 words, an end token and a start token
WEIGHTED = "a boy (wearing:0.7) a (hat:1.2) and a scarf"

BY_DEFAULT = (
    *((stage, number, 1) for stage, number in (("input", 7), ("input", 8), ("middle", 0))),
    *(("output", number, depth) for number, depth in ((0, 1), (1, 1), (3, 0))),
)

CASES = {
    "batch of two": Case(batch=2, prompt=WEIGHTED),
    "no negative": Case(cfg=1.0),
    "long positive": Case(prompt=LONG, positions=((LONG_HAT,), (LONG_SCARF,)), starts=((0, 77), (0,))),
    "long negative": Case(negative="bad " * 90, starts=((0,), (0, 77))),
    "two and three chunks": Case(
        prompt=LONG,
        positions=((LONG_HAT,), (LONG_SCARF,)),
        negative="bad " * 160,
        starts=((0, 77), (0, 77, 154)),
    ),
    "word twice": Case(prompt="a hat and a scarf and a hat", positions=((2, 8), (5,))),
    "zeroed negative": Case(negative_counts=False),
    "one concept": Case(references="hat", suppression=0.9, size=(16, 16)),
    "two references of one concept": Case(references="hat scarf hat"),
    "no suppression": Case(suppression=1.0, suppression_given=True),
    "one stage, no guidance": Case(switch=1.0, guidance=False, size=(16, 16)),
    "begins late and ends early": Case(start=0.2, end=0.7),
    "second part of a run": Case(from_step=2),
    "references once for each fifth": Case(refresh=0.2, size=(16, 16)),
    "references once in a run": Case(refresh=1.0, size=(16, 16)),
    "much guidance": Case(cfg=16.0),
    "blocks that find regions by default": Case(segmented=BY_DEFAULT),
    "odd sides": Case(size=(17, 23)),
    "sd2": Case(family="sd2", size=(16, 16), batch=2),
    "sd2 predicting v": Case(family="sd2", v_prediction=True, size=(16, 16)),
    "sd1": Case(family="sd1", size=(24, 16)),
    "weights of 8 bits": Case(dtype=torch.float8_e4m3fn, size=(16, 16)),
}


def product_run(graph: Graph, case: Case, model: Any) -> Tensor:
    """The sampled latent (b, 4, H, W)."""
    latent = torch.zeros(case.batch, 4, *case.size)
    sigmas = comfy.samplers.calculate_sigmas(graph.model.get_model_object("model_sampling"), "normal", STEPS)
    return comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(latent, 3),
        case.cfg,
        comfy.samplers.sampler_object("euler"),
        sigmas[case.from_step :],
        positive_of(graph, case),
        negative_of(graph, case),
        latent,
        disable_pbar=True,
        seed=3,
    )


@pytest.mark.parametrize("name", CASES)
def test_each_evaluation_equals_the_plain_programs(graph_of, tiny_model, name):
    """Each evaluation of the plain program starts from the latent and the regions of the product's evaluation."""
    case = CASES[name]
    graph = graph_of(case.family)
    if case.v_prediction or case.dtype is not torch.float32:
        graph = replace(graph, model=tiny_model.load_unet(case.family, 0, case.dtype, v_prediction=case.v_prediction))
    given = references(graph, case.references)
    model = patch_model(graph, case, given)
    latent, ours = lead(graph.pack, model, lambda model: product_run(graph, case, model))
    assert len(ours) == STEPS - case.from_step
    regions = graph.regions_by_step(latent)
    difference = product_run(graph, case, graph.model) - latent
    assert (
        difference.flatten(1).abs().amax(1) > 0.03 * latent.flatten(1).abs().amax(1)
    ).all()  # the method has an effect

    for image in range(case.batch):
        program, before, seen = plain_program(graph, case, given), None, []
        for evaluation in ours:
            x, steering = evaluation.x[image : image + 1], regions_of(evaluation, image)
            if evaluation.initial is not None:  # a run that begins in the blend stage finds regions first
                _, found = program.evaluate(x, evaluation.sigma, None, layout=True)
                initial = replace(evaluation, regions=evaluation.initial)
                assert_found(initial, found, image)
                before = regions_of(initial, image)
            denoised, found = program.evaluate(x, evaluation.sigma, before, steering)
            assert (evaluation.denoised[image] - denoised[0]).abs().max() < 1e-4 * denoised.abs().max()
            if program.is_on(evaluation.sigma):
                assert_found(evaluation, found, image)
                before = steering
                seen.append(steering.concepts)
            else:
                assert steering is None
        assert torch.equal(torch.stack(regions[image]), torch.stack(seen))
        assert set(range(len(set(case.references.split())))) <= set(torch.stack(seen).flatten().tolist())
