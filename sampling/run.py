"""One sampling run: born and dropped in OUTER_SAMPLE, it holds all the state there is."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..attention.guidance import guidance_rate
from ..attention.schedule import Stage, StageSigmas
from .gazes import GazeRecorder
from .method import KEY, Method
from .recording import Recording, StepRegions
from .reference_pass import KeptKeys, NoiseLevel, ReferencePass
from .roles import KnownConds, Texts, known_conds, role_of
from .segmenter import RegionIndex, Segmenter
from .unet_call import CallPlan, UNetCall

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Evaluation:
    """One evaluation of the model by the guider.

    Attributes:
        at: its noise level and stage.
        segmenter: takes in attention maps until the primary call, which holds the positive list, is over.
        steering: the regions that steer RBA in all its calls: those of the evaluation before.
        keys: what the references left, by hook group.
        rate_due: whether the guidance rate is still to be applied.
    """

    at: NoiseLevel
    segmenter: Segmenter | None
    steering: RegionIndex | None
    keys: dict[Any, KeptKeys] = field(default_factory=dict)
    rate_due: bool = False


class Run:
    """The state of one sampling run and the wrappers that act on it.

    Args:
        method: what to do; at least one reference is on.
        guider: ComfyUI's guider, its conds set.
        total_steps: how many it will make.
    """

    def __init__(self, method: Method, guider: Any, total_steps: int) -> None:
        self._method, self._guider = method, guider
        sampling = guider.model_patcher.get_model_object("model_sampling")
        schedule = method.schedule
        self._sigmas = StageSigmas(
            *(float(sampling.percent_to_sigma(p)) for p in (schedule.start, schedule.switch, schedule.end))
        )
        self._references: ReferencePass | None = None
        self._evaluation: Evaluation | None = None
        self._plan: CallPlan | None = None
        self._texts = Texts(guider.conds)
        self._acting = False
        self._due = self._looked = False
        self._guidance_off_said = False
        self._seed = 0
        self.regions: RegionIndex | None = None
        self._recording = Recording(method.labels)
        self._unrecorded: list[tuple[int, RegionIndex]] = []
        self.recorder = GazeRecorder(method, total_steps) if method.record else None

    def install(self, model_options: dict[str, Any], seed: int | None) -> None:
        """Hang the run's wrappers on the model options that belong to this run alone."""
        self._seed = seed or 0
        for kind, wrapper in (
            (WrappersMP.PREPARE_SAMPLING, self._prepare_sampling),
            (WrappersMP.PREDICT_NOISE, self._predict_noise),
            (WrappersMP.CALC_COND_BATCH, self._calc_cond_batch),
            (WrappersMP.DIFFUSION_MODEL, self._diffusion_model),
        ):
            comfy.patcher_extension.add_wrapper_with_key(kind, KEY, wrapper, model_options, is_model_options=True)
        if self._method.schedule.guidance:
            standing = model_options.get("sampler_post_cfg_function", [])
            model_options["sampler_post_cfg_function"] = [*standing, self._post_cfg]

    def step_done(self, step: int) -> bool:
        """Keep the regions of the sampler's step for the preview; whether it has any."""
        found = self.regions if self._acting else None
        if found is not None:
            self._unrecorded.append((step, found))
        if self.recorder is not None:
            self.recorder.step_done(step, None if found is None else found.concepts.to(torch.int8))
        return found is not None

    @property
    def recording(self) -> Recording:
        """The regions of the steps so far."""
        self._record()
        return self._recording

    def _record(self) -> None:
        for step, found in self._unrecorded:
            self._recording.steps.append(StepRegions(step, found.concepts, found.foreground).compact())
        self._unrecorded.clear()

    def end(self) -> None:
        """Say so if the picture is as if the method had not been there, or if not all could be kept."""
        if self._references is not None:
            self._references.end()
        if self._due and not self._looked:
            log.warning(
                "MagicFace: nothing looked at the references, for no evaluation asked for the guider's positive prompt"
                " as it stands: another node of this model hands on a copy of it, or another prompt in its place."
            )

    def _prepare_sampling(
        self, executor: Any, model: Any, noise_shape: Sequence[int], conds: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Ask ComfyUI for memory for the references too; they have one row where the target has two."""
        area = noise_shape[-2] * noise_shape[-1]
        reference_area = sum(
            r.latents.shape[0] * r.latents.shape[-2] * r.latents.shape[-1] for r in self._method.references if r.active
        )
        rows = noise_shape[0] + -(-reference_area // (2 * area))
        return executor(model, [rows, *noise_shape[1:]], conds, *args, **kwargs)

    def _predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Open an evaluation."""
        level = self._level(timestep)
        stage = self._sigmas.stage(level)
        self._acting = stage is not Stage.OFF
        self._due = self._due or self._acting
        segmenter = Segmenter(self._method, x.shape[-2:]) if self._acting else None
        at = NoiseLevel(stage, timestep, level, model_options)
        around, self._evaluation = self._evaluation, Evaluation(at, segmenter, self.regions)
        try:
            return executor(x, timestep, model_options, *args, **kwargs)
        finally:
            self._evaluation = around

    def _level(self, timestep: Tensor) -> float:
        """The noise level, for which the host has to wait; the last evaluation's regions come along."""
        if self.regions is None:
            return float(timestep[0].float())
        level = self.regions.read_with(timestep[:1])
        self._record()
        return level

    def _calc_cond_batch(
        self,
        executor: Any,
        model: Any,
        conds: Sequence[Any],
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Any:
        """Say who is who; before the evaluation's primary call the reference pass, after it segmentation."""
        evaluation, guider = self._evaluation, self._guider
        if evaluation is None or evaluation.at.stage is Stage.OFF or model is not guider.inner_model:
            with self._following(None):
                return executor(model, conds, x, timestep, model_options)

        known = known_conds(conds, guider.conds, self._texts, x.shape)
        roles = [role_of(listed, guider.conds) for listed in conds]
        segmenter = evaluation.segmenter
        primary = segmenter is not None and "positive" in roles
        if primary:
            self._looked = True
            evaluation.keys = self._run_references(evaluation.at, known, model, x.device)
        plan = CallPlan(
            method=self._method,
            stage=evaluation.at.stage,
            known=known,
            keys=evaluation.keys,
            regions=evaluation.steering,
            segmenter=segmenter,
            recorder=self.recorder if primary else None,
            size_lat=x.shape[-2:],
        )
        with self._following(plan):
            out = executor(model, conds, x, timestep, model_options)
        if primary and segmenter is not None:
            found = segmenter.regions(known, x.device)
            evaluation.segmenter = None
            if found is not None:
                self.regions = RegionIndex(found)
            asked = [role for role, listed in zip(roles, conds, strict=True) if listed is not None]
            evaluation.rate_due = sorted(asked) == ["negative", "positive"]
        return out

    def _run_references(
        self, at: NoiseLevel, known: KnownConds, model: Any, device: torch.device
    ) -> dict[Any, KeptKeys]:
        """The reference pass, once for each hook group that the prompt's conds have at this noise level."""
        if self._references is None:
            self._references = ReferencePass(self._method, model, device, self._seed)
        groups = {row.hooks for row in known.values() if row.role == "positive" and row.is_on(at.level)}
        return {hooks: self._references.run(at, hooks) for hooks in groups}

    def _diffusion_model(
        self,
        executor: Any,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        y: Tensor | None,
        control: Any,
        transformer_options: dict[str, Any],
        **kwargs: Any,
    ) -> Any:
        """Patch one UNet call, on a copy of its options; none begins after a person has cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self._plan is not None:
            call = UNetCall(self._plan, x, context, transformer_options)
            transformer_options = call.patched(transformer_options)
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    def _post_cfg(self, args: dict[str, Any]) -> Tensor:
        """Semantic-aware guidance, as denoised += cfg (rate - 1) (cond - uncond): cond stays as others know it."""
        denoised: Tensor = args["denoised"]
        evaluation, cfg = self._evaluation, args["cond_scale"]
        if evaluation is None or self.regions is None or not self._acting:
            return denoised
        if args["uncond"] is None or math.isclose(cfg, 1.0):
            return denoised
        if not evaluation.rate_due:
            self._say_that_guidance_is_off()
            return denoised
        evaluation.rate_due = False
        delta = args["cond_denoised"] - args["uncond_denoised"]
        rate = guidance_rate(delta, self.regions.regions, cfg)
        return denoised + cfg * (rate - 1.0) * delta

    def _say_that_guidance_is_off(self) -> None:
        if not self._guidance_off_said:
            self._guidance_off_said = True
            log.info(
                "MagicFace: semantic guidance is off: this guider asks for other than one positive and one negative."
            )

    @contextmanager
    def _following(self, plan: CallPlan | None) -> Iterator[None]:
        """Let UNet calls follow a plan, or none; calls nest."""
        before, self._plan = self._plan, plan
        try:
            yield
        finally:
            self._plan = before
