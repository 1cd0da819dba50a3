"""Every sampler and every scheduler that the core has: the method acts, and at weight 0 nothing does."""

from __future__ import annotations

import comfy.samplers
import pytest

from .graph import assert_acts

pytestmark = [
    pytest.mark.usefixtures("as_node"),
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # torchsde's, of the last bit of a time
]


def assert_sampled(graph, **sampling):
    """The method acts on a small latent, where three steps differ little."""
    assert_acts(graph, graph.model, *graph.two(), least=0.01, size=(8, 8), steps=3, **sampling)


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_sampler(graph, sampler):
    assert_sampled(graph, sampler_name=sampler, scheduler="karras", cfg=2.0)


@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
def test_scheduler(graph, scheduler):
    assert_sampled(graph, scheduler=scheduler)
