"""One sampling run: made and dropped in OUTER_SAMPLE, it holds all the state that there is."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...attention.guidance import guidance_rate
from ...attention.schedule import Stage, StageSigmas
from ..conditioning.roles import KnownConds, Texts, known_conds, match_list
from ..findings import Findings
from ..method import KEY, Method
from ..references.reference_pass import ReferencePass
from ..regions.history import RegionHistory, RegionRecorder
from ..regions.index import RegionIndex
from ..snapshots import AttentionRecorder
from .evaluation import CondBatch, Evaluation
from .outcome import Outcome
from .unet_call import UNetCall
from .windows import Images, images_of

log = logging.getLogger(__name__)
# Options of a model that act on predictions; an evaluation that only finds regions needs none of them.
_GUIDANCE = ("sampler_pre_cfg_function", "sampler_cfg_function", "sampler_post_cfg_function")


class Run:
    """The state of one sampling run, and the wrappers that use it.

    Attributes:
        latest_regions: those of the latest evaluation that found some.
        regions: records those of each step.
        recorder: records attention snapshots, or None.
    """

    def __init__(
        self, method: Method, guider: Any, total_steps: int, initial_regions: RegionIndex | None = None
    ) -> None:
        self._method, self._guider, self._steps = method, guider, total_steps
        sampling = guider.model_patcher.get_model_object("model_sampling")
        schedule = method.schedule
        self._sigmas = StageSigmas(
            *(float(sampling.percent_to_sigma(p)) for p in (schedule.start, schedule.switch, schedule.end))
        )
        self._references: ReferencePass | None = None
        self._evaluation: Evaluation | None = None
        self._batch: CondBatch | None = None
        self._texts = Texts(guider.conds)
        self._acting = False  # in the present evaluation
        self._outcome = Outcome(inherited=initial_regions is not None)
        self._seed = 0
        self.latest_regions = initial_regions
        self.findings = Findings()
        self.regions = RegionRecorder(method.concept_names, method.identities, self.findings.messages)
        self.recorder = AttentionRecorder(method, total_steps) if method.record else None

    def install(self, model_options: dict[str, Any], seed: int | None) -> None:
        """Add the run's wrappers to the model options, which belong to this run alone."""
        self._seed = seed or 0
        for kind, wrapper in (
            (WrappersMP.PREPARE_SAMPLING, self.prepare_sampling),
            (WrappersMP.PREDICT_NOISE, self.predict_noise),
            (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
            (WrappersMP.DIFFUSION_MODEL, self.diffusion_model),
        ):
            comfy.patcher_extension.add_wrapper_with_key(kind, KEY, wrapper, model_options, is_model_options=True)
        if self._method.schedule.guidance:
            others = model_options.get("sampler_post_cfg_function", [])
            model_options["sampler_post_cfg_function"] = [*others, self.guide]

    def end_step(self, step: int) -> bool:
        """Store the regions of a sampler step for the preview. Returns whether it has any."""
        found = self.latest_regions if self._acting else None
        if found is not None:
            self.regions.add(step, found)
        if self.recorder is not None:
            self.recorder.end_step(step, None if found is None else found.concepts.to(torch.int8))
        return found is not None

    def end(self, level: float) -> RegionHistory:
        """End the run at a noise level: log what the cache did, add the findings, and return the regions."""
        if self._references is not None:
            self._references.end()
        if self._outcome.segmented and self.latest_regions is not None and not self.regions.read().steps:
            self.regions.add(self._steps - 1, self.latest_regions)
            self.findings.add("the sampler reports no steps, so only its last regions are known.", logging.INFO)
        history = self.regions.end(self.latest_regions, level)
        last = history.steps[-1] if history.steps else None
        self._outcome.report(self._method, self.findings, self._steps, last, self._texts.positive_is_zeroed)
        return history

    def prepare_sampling(
        self, executor: Any, model: Any, noise_shape: Sequence[int], conds: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Request memory for the references too. They have one row where ComfyUI counts two for the target."""
        rows = noise_shape[0] + -(-self._method.reference_cells // (2 * noise_shape[-2] * noise_shape[-1]))
        return executor(model, [rows, *noise_shape[1:]], conds, *args, **kwargs)

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Open an evaluation.

        A run that begins in the blend stage has no regions yet, unless it goes on with those of an earlier run. So it
        evaluates its first latent in the layout stage before, to find them (docs/method.md#pieces).
        """
        level = self._read_level(timestep)
        stage = self._sigmas.stage(level)

        def evaluate(stage: Stage, options: dict[str, Any]) -> Any:
            finder = self._method.region_source(self._method, x.shape) if stage is not Stage.OFF else None
            places = None if finder is None else finder.places
            if finder is not None and not finder.blocks:
                known, finder = finder.regions({}, torch.device("cpu")), None
                self._take(None if known is None else RegionIndex.known(known, x.device))
            evaluation = Evaluation(stage, timestep, level, x.shape, options, finder, places, self.latest_regions)
            outer, self._evaluation = self._evaluation, evaluation
            try:
                return executor(x, timestep, options, *args, **kwargs), evaluation
            finally:
                self._evaluation = outer

        self._acting = stage is not Stage.OFF
        begins = stage is Stage.BLEND and not self._outcome.acted
        if begins and self.latest_regions is None and self._method.region_source(self._method, x.shape).blocks:
            log.info("MagicFace: sampling begins in the blend stage, so one more evaluation finds the regions.")
            evaluate(Stage.LAYOUT, {name: given for name, given in model_options.items() if name not in _GUIDANCE})
        prediction, evaluation = evaluate(stage, model_options)
        self._outcome.add(evaluation)
        return prediction

    def _read_level(self, timestep: Tensor) -> float:
        """The noise level, for which the host waits; the last evaluation's regions are read with it."""
        if self.latest_regions is None:
            return float(timestep[0].float())
        level = self.latest_regions.read_with(timestep[:1])
        self.regions.read()
        return level

    def calc_cond_batch(
        self,
        executor: Any,
        model: Any,
        conds: Sequence[Any],
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Any:
        """Determine roles. Around the evaluation's primary batch: the reference pass before, regions after."""
        evaluation, guider = self._evaluation, self._guider
        if evaluation is None or evaluation.stage is Stage.OFF or model is not guider.inner_model:
            with self._in_batch(None):
                return executor(model, conds, x, timestep, model_options)

        lists = [match_list(listed, guider.conds) for listed in conds]
        known = known_conds(lists, self._texts, x.shape)
        images = self._images(evaluation, x, model_options)
        has_positive = any(listed.role == "positive" for listed in lists)
        if has_positive:
            evaluation.prompted = True
            self._run_references(evaluation, known, model, x.device)
        primary = has_positive and images is not None and len(evaluation.mapped) < evaluation.shape[0]
        finder, recorder = (evaluation.finder, self.recorder) if primary else (None, None)
        with self._in_batch(CondBatch(evaluation, known, finder, recorder, x.shape, self.findings, images)):
            out = executor(model, conds, x, timestep, model_options)
        if primary and images is not None:
            evaluation.mapped |= set(images)
            if len(evaluation.mapped) == evaluation.shape[0]:
                requested = [of.role for of, listed in zip(lists, conds, strict=True) if listed is not None]
                evaluation.rate_pending = sorted(requested) == ["negative", "positive"]
                found = None if finder is None else finder.regions(known, x.device)
                self._take(None if found is None else RegionIndex(found))
        return out

    def _images(self, evaluation: Evaluation, x: Tensor, model_options: dict[str, Any]) -> Images | None:
        """The images of the evaluation that a latent is of; None if it is a part whose place is not known."""
        images = None
        if x.shape[-2:] == evaluation.shape[-2:]:
            images = images_of(x.shape[0], evaluation.shape[0], model_options.get("transformer_options", {}))
        if images is None:
            self.findings.add(
                "another node calls the model for parts of the picture or of the batch. Their place is not known, so"
                " in these calls every query attends to all references, and no regions are found."
            )
        return images

    def _take(self, found: RegionIndex | None) -> None:
        """The regions of an evaluation, if there are any, are the latest."""
        if found is not None:
            self._outcome.segmented, self.latest_regions = True, found

    def _run_references(self, evaluation: Evaluation, known: KnownConds, model: Any, device: torch.device) -> None:
        """The reference pass, once for each hook group that positive conds have at this noise level."""
        if self._references is None:
            self._references = ReferencePass(self._method, model, device, self._seed, self.findings)
        groups = {row.hooks for row in known.values() if row.role == "positive" and row.is_on(evaluation.level)}
        for hooks in groups - evaluation.kv.keys():
            evaluation.kv[hooks] = self._references.run(evaluation, hooks)

    def diffusion_model(
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
        """Patch one UNet call, on a copy of its options; none begins after the user cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self._batch is not None:
            call = UNetCall(self._batch, self._method.injection_blocks, x, context, transformer_options)
            transformer_options = call.patched_options()
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    def guide(self, args: dict[str, Any]) -> Tensor:
        """Semantic guidance, as denoised += cfg (rate - 1) (cond - uncond): others find cond unchanged."""
        denoised: Tensor = args["denoised"]
        evaluation, cfg = self._evaluation, args["cond_scale"]
        if evaluation is None or self.latest_regions is None or not self._acting:
            return denoised
        if args["uncond"] is None or math.isclose(cfg, 1.0):
            return denoised
        if not evaluation.rate_pending:
            self._outcome.unguided += 1
            return denoised
        evaluation.rate_pending = False
        self._outcome.guided += 1
        delta = args["cond_denoised"] - args["uncond_denoised"]
        rate = guidance_rate(delta, self.latest_regions.on_device, cfg)
        return denoised + cfg * (rate - 1.0) * delta

    @contextmanager
    def _in_batch(self, batch: CondBatch | None) -> Iterator[None]:
        """UNet calls belong to this batch, or to none; batches nest."""
        outer, self._batch = self._batch, batch
        try:
            yield
        finally:
            self._batch = outer
