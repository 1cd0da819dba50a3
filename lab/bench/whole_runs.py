"""Whole runs of a sampler: what a person waits for a picture, and what the reference cache then holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.samplers
import torch

from .clock import timer
from .scene import Scene

STEPS = 20
SAMPLER, SCHEDULER = "euler", "normal"
PLAIN, FIRST, NEXT, EXACT = "unpatched", "first picture", "next picture", "first picture, refresh 0"


def seconds_of(scene: Scene, model: Any, seed: int, steps: int = STEPS) -> float:
    """Seconds of a run, with its preparation, but without loading the model and decoding the picture."""
    sigmas = comfy.samplers.calculate_sigmas(scene.model.get_model_object("model_sampling"), SCHEDULER, steps)
    guider, start = scene.guider(model), scene.start(1, seed)
    sampler = comfy.samplers.sampler_object(SAMPLER)
    before = timer()
    with torch.inference_mode():
        guider.sample(start, torch.zeros_like(start), sampler, sigmas, disable_pbar=True, seed=seed)
    return timer() - before


def whole_runs(
    scene: Scene, seed: int, steps: int = STEPS, schedule: Any = None, say: Callable[[str], None] = lambda name: None
) -> dict[str, float]:
    """Seconds of whole runs with three references, by name.

    The first picture finds an empty reference cache; the next one, of another seed, finds what the first one left. With
    `refresh` at 0 references are computed at every noise level.

    Args:
        scene: of the runs.
        seed: of the first picture.
        steps: of a run.
        schedule: a Schedule; None for the nodes' own.
        say: called with the name of the next run.
    """
    cache = scene.pack.sampling.references.cache.REFERENCE_CACHE
    shipped = schedule or scene.pack.sampling.method.Schedule()
    model = scene.patched_model(3, schedule=shipped)
    say(PLAIN)
    found = {PLAIN: seconds_of(scene, scene.model, seed, steps)}
    cache.clear()
    for name, its_seed in ((FIRST, seed), (NEXT, seed + 1)):
        say(name)
        found[name] = seconds_of(scene, model, its_seed, steps)
    cache.clear()
    say(EXACT)
    found[EXACT] = seconds_of(scene, scene.patched_model(3, schedule=replace(shipped, refresh=0.0)), seed, steps)
    cache.clear()
    return found
