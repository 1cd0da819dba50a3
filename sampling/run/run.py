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

from ...attention.blocks import Block
from ...attention.guidance import guidance_rate
from ...attention.kv import BlockKV
from ...attention.schedule import Stage, StageSigmas
from ..conditioning.roles import KnownConds, Texts, known_conds, role_of
from ..findings import Findings
from ..method import KEY, Method
from ..references.reference_pass import ReferencePass
from ..regions.history import RegionHistory, StepRegions
from ..regions.index import RegionIndex
from ..snapshots import AttentionRecorder
from .evaluation import CondBatch, Evaluation
from .unet_call import UNetCall


class Run:
    """The state of one sampling run, and the wrappers that use it.

    Attributes:
        latest_regions: those of the latest evaluation that found some.
        recorder: records attention snapshots, or None.
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
        self._batch: CondBatch | None = None
        self._texts = Texts(guider.conds)
        self._acting = False  # in the present evaluation
        self._acted = self._injected = False  # in any
        self._guided = self._unguided = 0  # evaluations
        self._seed = 0
        self.latest_regions: RegionIndex | None = None
        self.findings = Findings()
        self._history = RegionHistory(method.concept_names, findings=self.findings.messages)
        self._pending: list[tuple[int, RegionIndex]] = []
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
            self._pending.append((step, found))
        if self.recorder is not None:
            self.recorder.end_step(step, None if found is None else found.concepts.to(torch.int8))
        return found is not None

    @property
    def history(self) -> RegionHistory:
        """The regions of the steps so far."""
        self._store_pending()
        return self._history

    def _store_pending(self) -> None:
        for step, found in self._pending:
            self._history.steps.append(StepRegions(step, found.concepts, found.foreground).compact())
        self._pending.clear()

    def end(self) -> None:
        """Log what the cache did, and what the method did less than it was asked for."""
        if self._references is not None:
            self._references.end()
        add = self.findings.add
        if not self._acted:
            schedule = self._method.schedule
            add(
                f"it did nothing: none of this run's noise levels is between start ({schedule.start:g}) and end"
                f" ({schedule.end:g}) of MagicFace Schedule."
            )
        elif not self._injected:
            add(
                "nothing attended to the references, because no evaluation requested the guider's positive prompt as it"
                " is: another node of this model passes on a copy of it, or another prompt in its place."
            )
        elif self.latest_regions is None:
            reason = " (the positive prompt is zeroed out)" if self._texts.positive_is_zeroed else ""
            add(
                f"no regions were found{reason}, so the whole picture attended to all references until the end, and"
                " there was no semantic guidance."
            )
        elif self.history.steps:
            found = self.history.steps[-1].concepts.unique().tolist()
            concepts = enumerate(self._method.concepts)
            missing = [repr(c.concept) for i, c in concepts if self._method.is_active(c) and i not in found]
            if missing:
                add(f"no region was found for {', '.join(missing)} in the last step.")
        if self._unguided:
            count = self._unguided + self._guided
            add(
                f"semantic guidance was off in {self._unguided} of {count} evaluations: it needs exactly one positive"
                " and one negative prompt.",
                logging.INFO,
            )

    def prepare_sampling(
        self, executor: Any, model: Any, noise_shape: Sequence[int], conds: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Request memory for the references too. They have one row where ComfyUI counts two for the target."""
        area = noise_shape[-2] * noise_shape[-1]
        reference_area = sum(
            r.latents.shape[0] * r.latents.shape[-2] * r.latents.shape[-1] for r in self._method.references if r.active
        )
        rows = noise_shape[0] + -(-reference_area // (2 * area))
        return executor(model, [rows, *noise_shape[1:]], conds, *args, **kwargs)

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Open an evaluation."""
        level = self._read_level(timestep)
        stage = self._sigmas.stage(level)
        self._acting = stage is not Stage.OFF
        self._acted = self._acted or self._acting
        finder = self._method.region_source(self._method, x.shape) if self._acting else None
        evaluation = Evaluation(stage, timestep, level, model_options, finder, self.latest_regions)
        outer, self._evaluation = self._evaluation, evaluation
        try:
            return executor(x, timestep, model_options, *args, **kwargs)
        finally:
            self._evaluation = outer

    def _read_level(self, timestep: Tensor) -> float:
        """The noise level, for which the host waits; the last evaluation's regions are read with it."""
        if self.latest_regions is None:
            return float(timestep[0].float())
        level = self.latest_regions.read_with(timestep[:1])
        self._store_pending()
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

        known = known_conds(conds, guider.conds, self._texts, x.shape)
        roles = [role_of(listed, guider.conds) for listed in conds]
        finder = evaluation.finder
        primary = finder is not None and "positive" in roles
        if primary:
            self._injected = True
            evaluation.kv |= self._run_references(evaluation, known, model, x.device)
        recorder = self.recorder if primary else None
        with self._in_batch(CondBatch(evaluation, known, finder, recorder, x.shape[-2:])):
            out = executor(model, conds, x, timestep, model_options)
        if primary and finder is not None:
            found = finder.regions(known, x.device)
            evaluation.finder = None
            if found is not None:
                self.latest_regions = RegionIndex(found)
            requested = [role for role, listed in zip(roles, conds, strict=True) if listed is not None]
            evaluation.rate_pending = sorted(requested) == ["negative", "positive"]
        return out

    def _run_references(
        self, evaluation: Evaluation, known: KnownConds, model: Any, device: torch.device
    ) -> dict[Any, dict[Block, BlockKV]]:
        """The reference pass, once for each hook group that positive conds have at this noise level."""
        if self._references is None:
            self._references = ReferencePass(self._method, model, device, self._seed, self.findings)
        groups = {row.hooks for row in known.values() if row.role == "positive" and row.is_on(evaluation.level)}
        return {hooks: self._references.run(evaluation, hooks) for hooks in groups}

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
            self._unguided += 1
            return denoised
        evaluation.rate_pending = False
        self._guided += 1
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
