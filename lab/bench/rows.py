"""The rows that references need in the UNet, without the method: what its cost is compared with."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from .clock import timer
from .scene import Around, Evaluations, Scene


class Rows:
    """UNet calls with the rows of references, up to the last block whose keys and values are needed.

    Args:
        scene: model and references.
        count: number of references.
    """

    def __init__(self, scene: Scene, count: int) -> None:
        pack, self._scene = scene.pack, scene
        calls, references = pack.sampling.references.unmodified_unet, scene.references(count)
        comfy.model_management.load_models_gpu([scene.model])
        self._model = model = scene.model.model
        latents = [model.process_latent_in(reference.latents).to(scene.device) for reference in references]
        self._latents = torch.cat(latents)
        conds = [
            calls.conds_of(model, reference.conditioning, latent, 0)[0]["processed"]
            for reference, latent in zip(references, latents, strict=True)
        ]
        self._conds = comfy.samplers.cond_cat(conds)
        self._reached = calls.LastBlockReached
        method = pack.sampling.patch.bind(scene.model, references, scene.schedule())
        self._patches = {"attn1": {method.injection_blocks[-1]: self._stop}}
        self._with_attention = pack.sampling.families.unet.with_attention

    def _stop(self, *_: Any) -> Tensor:
        raise self._reached

    @torch.inference_mode()
    def run(self, seed: int = 0, around: Around | None = None) -> Evaluations:
        """Like `Scene.run`, with one UNet call in place of an evaluation; its predictions are the inputs."""
        found = Evaluations()
        for stage, levels in self._scene.levels.items():
            for level in levels:
                before = timer()
                call = partial(self.call, level)
                x = around(call) if around and stage != "first" else call()
                found.add(stage, timer() - before, x, x)
        return found

    def call(self, level: float) -> Tensor:
        """One UNet call at a noise level. Returns what went in."""
        sigma = torch.full((len(self._latents),), level, device=self._latents.device)
        options: dict[str, Any] = {"cond_or_uncond": [0], "sigmas": sigma[:1]}
        x = self._latents * (1 + level**2) ** 0.5
        try:
            self._model.apply_model(
                x, sigma, **self._conds, transformer_options=self._with_attention(options, self._patches)
            )
        except self._reached:
            return x
        raise RuntimeError("the UNet call did not reach the last injection block")
