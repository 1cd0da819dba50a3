"""Every sampler and scheduler of ComfyUI: the method acts, and weight 0 gives the unpatched picture."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch

from .graph import assert_acts

pytestmark = [
    pytest.mark.usefixtures("as_node"),
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # torchsde warns about the last bit of a time
]


# On a small latent, a few steps change less.
SMALL = {"least": 0.01, "size": (8, 8)}


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_the_method_acts_and_no_level_has_two_reference_passes(graph, pack, monkeypatch, sampler):
    """Samplers of a higher order return to a level; dpm_adaptive also where it takes back a step, some levels later."""
    passes = []
    reference_pass = pack.sampling.references.reference_pass.ReferencePass
    real = reference_pass.through_unet
    monkeypatch.setattr(reference_pass, "through_unet", lambda self, *call: passes.append(call[1]) or real(self, *call))
    schedule = graph.schedule(keep_mb=0, refresh=0.0)
    sampling = {"sampler_name": sampler, "scheduler": "karras", "cfg": 2.0, "steps": 4}
    assert_acts(graph, graph.model, *graph.two_references(), schedule=schedule, **SMALL, **sampling)
    again = len(passes) - len(set(passes))
    assert passes and again <= (len(passes) // 20 if sampler == "dpm_adaptive" else 0)


@pytest.mark.parametrize("sampler", ["heun", "heunpp2", "sa_solver_pece"])
def test_held_references_leave_the_picture_as_it_is(graph, pack, monkeypatch, sampler):
    schedule = graph.schedule(keep_mb=0, refresh=0.0)
    patched = graph.apply(graph.model, *graph.two_references(), schedule=schedule)
    sampling = {"size": (16, 16), "steps": 4, "sampler_name": sampler}
    held = graph.sample(patched, **sampling)
    reference_pass = pack.sampling.references.reference_pass.ReferencePass
    real = reference_pass.run
    monkeypatch.setattr(reference_pass, "run", lambda self, *call: self._held.clear() or real(self, *call))
    assert torch.equal(graph.sample(patched, **sampling), held)


@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
def test_the_method_acts_with_each_scheduler(graph, scheduler):
    assert_acts(graph, graph.model, *graph.two_references(), **SMALL, scheduler=scheduler)
