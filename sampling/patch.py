"""Putting the method on a model: binding it to the model's blocks, and wrapping each run."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ..attention.blocks import injection_blocks, recorded_blocks, segmentation_blocks
from .conditioning.checks import check_prompt, check_text_widths
from .errors import SamplingError, error_prefix
from .families.unet import LATENT_PX, context_width, layout_of, unet_of
from .method import KEY, Method, RecordSettings, Reference, Schedule
from .references.cache_budget import to_main_memory
from .references.encoding import check_fits
from .references.given_masks import slight_masks
from .references.noise import NoiseSource, SeededNoise
from .regions.history import REGION_STORE, RegionHistory, regions_under
from .regions.placed import PlacedRegions
from .regions.segmenter import Segmenter
from .regions.source import RegionSource
from .run.other_patches import other_patches
from .run.run import Run
from .run.torch_compile import without_compile
from .snapshots import ATTENTION_STORE

log = logging.getLogger(__name__)

Watcher = Callable[[Run, int, Tensor, int], None]
"""Called after each step that has regions, with the run, the step, the denoised latent (b, ch, H, W) and the number of
steps. An exception in it ends the run."""


_ALL_OFF = "every weight is 0, so this is the picture without MagicFace."


def bind(
    model: Any,
    references: tuple[Reference, ...],
    schedule: Schedule,
    noise: NoiseSource | None = None,
    record: RecordSettings | None = None,
    strict: bool = False,
    region_source: RegionSource | None = None,
) -> Method:
    """Bind references and settings to a model's blocks, and check that they fit the model.

    Args:
        model: ComfyUI's ModelPatcher.
        references: one or more.
        schedule: the settings.
        noise: the source of the references' noise; by default seeded by the schedule.
        record: which attention snapshots to record.
        strict: whether to refuse to sample if other nodes act in the attention of the same blocks.
        region_source: where regions come from; by default attention-based segmentation, in the places that
            references have.

    Raises:
        ValueError: names the wrong input and says what to do.
    """
    with error_prefix("model"):
        layout = layout_of(unet_of(model))
    with error_prefix("schedule: injection_blocks"):
        injection = injection_blocks(schedule.injection_blocks, layout)
    with error_prefix("schedule: segmentation_blocks"):
        segmentation = segmentation_blocks(schedule.segmentation_blocks, layout)
    for reference in references:
        check_fits(reference, model, "references", "references", " to MagicFace Reference")
    with error_prefix("record: blocks"):
        recorded = recorded_blocks(record.blocks, injection) if record else ()
    noise = noise or SeededNoise(schedule.noise_seed)
    if region_source is None:
        region_source = PlacedRegions if any(reference.region for reference in references) else Segmenter
    return Method(references, schedule, injection, segmentation, noise, region_source, record, recorded, strict)


def _check_wrapper(errors: Callable[[], AbstractContextManager[None]], patcher: Any) -> None:
    """Before sampling: refuse if another node replaced all wrappers, so that the run would not begin.

    Raises:
        SamplingError: it did.
    """
    with errors():
        if KEY not in patcher.wrappers.get(WrappersMP.OUTER_SAMPLE, {}):
            raise SamplingError(
                "model: another node removed MagicFace's sampling wrapper from it, so MagicFace would do nothing; put"
                " MagicFace Apply after that node",
                "Apply",
            )


def _on_detach(patcher: Any, unpatch_all: bool) -> None:
    """A model leaves the device. ComfyUI also calls this with False when it switches clones; ignore that."""
    if unpatch_all:
        to_main_memory(patcher.model)


def patch_model(
    model: Any,
    method: Method,
    make_watcher: Callable[[Any], Watcher] | None = None,
    errors: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Any:
    """A clone of the model that samples with the method. A method that the model has already is replaced.

    Args:
        model: ComfyUI's ModelPatcher; it stays as it is.
        method: bound to the model.
        make_watcher: makes each run's watcher, given the run's ModelPatcher.
        errors: context of each run, in which the node layer completes error messages.
    """
    clone = model.clone()
    for kind in (CallbacksMP.ON_DETACH, CallbacksMP.ON_PRE_RUN):
        clone.remove_callbacks_with_key(kind, KEY)
    if method.schedule.cache_location == "device":
        clone.add_callback_with_key(CallbacksMP.ON_DETACH, KEY, _on_detach)
    if clone.wrappers.get(WrappersMP.OUTER_SAMPLE, {}).get(KEY):
        log.warning("MagicFace: the model was patched before; this MagicFace Apply replaces the earlier one.")
        clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)

    def outer_sample(
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Any = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """One sampling run, whose state is made and dropped in here."""
        guider = executor.class_obj
        with errors():
            run = _begin(method, guider, (noise, latent_image, sigmas), seed)
            watch = make_watcher(guider.model_patcher) if make_watcher and run else None
            denoised: list[Tensor] = []

            def each_step(step: int, x0: Tensor, x: Tensor, total: int) -> Any:
                denoised[:] = [x0]
                answer = callback(step, x0, x, total) if callback is not None else None
                if run is not None and run.end_step(step) and watch:
                    watch(run, step, x0, total)
                return answer

            with without_compile(guider.model_patcher, guider.model_options) if run else nullcontext():
                samples: Tensor = executor(
                    noise, latent_image, sampler, sigmas, denoise_mask, each_step, disable_pbar, seed, **kwargs
                )
        _end(method, run, guider.model_patcher.model, samples, denoised, float(sigmas[-1]))
        return samples

    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    clone.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, partial(_check_wrapper, errors))
    return clone


def _end(method: Method, run: Run | None, model: Any, samples: Tensor, denoised: list[Tensor], level: float) -> None:
    """Store what the run recorded under its latent and, as some samplers give it out too, its last denoised latent."""
    latents = [samples, *(model.process_latent_out(x0.float().cpu()) for x0 in denoised)]
    if run is None:
        REGION_STORE.add(RegionHistory(method.concept_names, findings=[_ALL_OFF]), latents)
        return
    REGION_STORE.add(run.end(level), latents)
    if run.recorder is not None:
        ATTENTION_STORE.add(run.recorder.record, latents)


def _begin(method: Method, guider: Any, start: tuple[Tensor, Tensor, Tensor], seed: int | None) -> Run | None:
    """The run's state; None if every weight is 0, which is exactly the model without the method.

    It starts with (noise, latent, sigmas). Without noise it may go on where an earlier run ended.
    """
    if not any(reference.active for reference in method.references):
        return None
    check_text_widths(context_width(unet_of(guider.model_patcher)), guider.conds)
    noise, latent, sigmas = start
    device = guider.model_patcher.load_device
    known = None if noise.any() else regions_under(latent, float(sigmas[0]), method.identities, device)
    run = Run(method, guider, len(sigmas) - 1, known)
    check_prompt(method, guider.conds.get("positive") or [], run.findings)
    report_other_patches(method, guider.model_options, guider.conds)
    for reference in filter(lambda reference: reference.active, method.references):
        slight = slight_masks(reference.masks, (reference.latents.shape[-2], reference.latents.shape[-1]))
        for note in (*reference.mask_notes, *slight):  # the node that made the mask has logged them
            run.findings.add(f"reference {reference.concept!r}: {note}", logging.DEBUG)
        if reference.region is not None:
            height, width = latent.shape[-2:]
            reference.region.check(reference.concept, latent.shape[0], height * LATENT_PX, width * LATENT_PX)
    for concept in method.concepts:
        count = sum(r.identity == concept.identity for r in method.references)
        if count > 1:
            text = f"{count} references have the phrase {concept.concept!r}: they count as views of one concept."
            run.findings.add(text, logging.INFO)
    run.install(guider.model_options, seed)
    return run


def report_other_patches(method: Method, model_options: dict[str, Any], conds: dict[str, Any]) -> None:
    """Log in one line which other nodes act in the attention of the method's blocks.

    Raises:
        SamplingError: there are some, and the method is strict.
    """
    blocks = list(dict.fromkeys([*method.injection_blocks, *method.segmentation_blocks]))
    found = other_patches(model_options.get("transformer_options", {}), blocks)
    if any("gligen" in cond for listed in conds.values() for cond in listed or ()):
        found.append("GLIGEN, of a prompt, as middle_patch")
    if not found:
        return
    if method.strict:
        raise SamplingError(
            f"strict: other nodes act in the blocks that MagicFace uses: {'; '.join(found)}. Remove them, choose other"
            " blocks in MagicFace Schedule, or switch strict off",
            "Apply",
        )
    log.info("MagicFace: other nodes act in the same blocks: %s.", "; ".join(found))
