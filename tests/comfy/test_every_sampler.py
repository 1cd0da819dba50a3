"""Every sampler and scheduler of ComfyUI: the method acts, and weight 0 gives the unpatched picture."""

from __future__ import annotations

import comfy.samplers
import pytest

from .graph import assert_acts

pytestmark = [
    pytest.mark.usefixtures("as_node"),
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # torchsde warns about the last bit of a time
]


def assert_sampled(graph, **sampling):
    """Assert that the method acts; on a small latent, a few steps change less."""
    assert_acts(graph, graph.model, *graph.two_references(), least=0.01, size=(8, 8), steps=3, **sampling)


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_the_method_acts_with_each_sampler(graph, sampler):
    assert_sampled(graph, sampler_name=sampler, scheduler="karras", cfg=2.0)


@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
def test_the_method_acts_with_each_scheduler(graph, scheduler):
    assert_sampled(graph, scheduler=scheduler)
