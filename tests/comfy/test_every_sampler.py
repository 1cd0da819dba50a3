"""Every sampler and every scheduler that the core has: the method acts, and at weight 0 nothing does."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch

pytest_plugins = [f"{__package__}.graph"]
pytestmark = [
    pytest.mark.usefixtures("as_node"),
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # torchsde's, of the last bit of a time
]

SIZE = (8, 8)
STEPS = 3


def assert_acts(graph, **sampling):
    given = {"size": SIZE, "steps": STEPS, **sampling}
    plain = graph.sample(graph.model, **given)
    latent = graph.sample(graph.apply(graph.model, *graph.two()), **given)
    assert torch.isfinite(plain).all() and torch.isfinite(latent).all()
    assert (latent - plain).abs().max() > 0.01
    regions = torch.stack(graph.recorded(latent)[0])
    assert len(regions) >= 1 and {0, 1} & set(regions.flatten().tolist())
    assert torch.equal(graph.sample(graph.apply(graph.model, *graph.two(0.0, 0.0)), **given), plain)


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_sampler(graph, sampler):
    assert_acts(graph, sampler_name=sampler, scheduler="karras", cfg=2.0)


@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
def test_scheduler(graph, scheduler):
    assert_acts(graph, scheduler=scheduler)
