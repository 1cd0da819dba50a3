"""A whole run of the product equals the same run of the plain program in `dense`, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from torch import Tensor

from .comparison import Case, negative_of, patched, plain_program, positive_of, references
from .graph import HAT, PROMPT, SCARF, Graph

pytestmark = pytest.mark.usefixtures("as_node")

STEPS = 4  # two in each stage
LONG = "and " * 70 + PROMPT
LONG_HAT, LONG_SCARF = HAT + 70, SCARF + 70 + 2  # the second chunk begins after 75 words, behind end and start token
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
    "zeroed negative": Case(negative_tells=False),
    "one concept": Case(references="hat", suppression=0.9, size=(16, 16)),
    "two references of one concept": Case(references="hat scarf hat"),
    "no suppression": Case(suppression=1.0, suppression_given=True),
    "one stage, no guidance": Case(switch=1.0, guidance=False, size=(16, 16)),
    "begins late and ends early": Case(start=0.2, end=0.7),
    "second part of a run": Case(from_step=2),
    "much guidance": Case(cfg=16.0),
    "blocks that find regions by default": Case(segmented=BY_DEFAULT),
    "odd sides": Case(size=(17, 23)),
    "sd2": Case(family="sd2", size=(16, 16), batch=2),
    "sd2 predicting v": Case(family="sd2", v_prediction=True, size=(16, 16)),
    "sd1": Case(family="sd1", size=(24, 16)),
    "weights of 8 bits": Case(dtype=torch.float8_e4m3fn, size=(16, 16)),
}


def noise_and_sigmas(graph: Graph, case: Case) -> tuple[Tensor, Tensor]:
    latent = torch.zeros(case.batch, 4, *case.size)
    sigmas = comfy.samplers.calculate_sigmas(graph.model.get_model_object("model_sampling"), "normal", STEPS)
    return comfy.sample.prepare_noise(latent, 3), sigmas[case.from_step :]


def product_run(graph: Graph, case: Case, model: Any) -> tuple[Tensor, list[Tensor]]:
    """The sampled latent (b, 4, H, W), and the latents after each step in the UNet's space."""
    noise, sigmas = noise_and_sigmas(graph, case)
    before: list[Tensor] = []
    latent = comfy.sample.sample_custom(
        model,
        noise,
        case.cfg,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        positive_of(graph, case),
        negative_of(graph, case),
        torch.zeros_like(noise),
        callback=lambda step, x0, x, total: before.append(x.clone()),
        disable_pbar=True,
        seed=3,
    )
    return latent, [*before[1:], graph.model.model.process_latent_in(latent)]


@pytest.mark.parametrize("name", CASES)
def test_a_run_is_that_of_the_plain_program(graph_of, tiny_model, name):
    case = CASES[name]
    graph = graph_of(case.family)
    if case.v_prediction or case.dtype is not torch.float32:
        graph = replace(graph, model=tiny_model.load_unet(case.family, 0, case.dtype, v_prediction=case.v_prediction))
    given = references(graph, case.references)
    latent, ours = product_run(graph, case, patched(graph, case, given))
    _, unpatched = product_run(graph, case, graph.model)
    regions = graph.recorded(latent)

    noise, sigmas = noise_and_sigmas(graph, case)
    first = noise * (torch.sqrt(1 + sigmas[0] ** 2) if case.from_step == 0 else sigmas[0])
    for image in range(case.batch):
        steps = plain_program(graph, case, given).run(first[image : image + 1], sigmas)
        assert len(ours) == len(steps) == STEPS - case.from_step
        for number, (theirs, _) in enumerate(steps):
            size = theirs.abs().max()
            assert (ours[number][image] - theirs[0]).abs().max() < 1e-4 * size
        assert (unpatched[-1][image] - steps[-1][0][0]).abs().max() > 0.03 * size  # which says something
        found = torch.stack([found.concepts for _, found in steps if found is not None])
        assert torch.equal(torch.stack(regions[image]), found)
        assert set(range(len(set(case.references.split())))) <= set(found.flatten().tolist())
