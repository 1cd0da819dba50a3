"""Hanging the method on a model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ..attention.blocks import injection_blocks, recorded_blocks, segmentation_blocks
from .eager import uncompiled
from .gazes import GAZES
from .kept import KEPT
from .method import KEY, Method, RecordSettings, Reference, Schedule
from .naming import naming
from .neighbours import neighbours
from .noise import NoiseSource, SeededNoise
from .prompt import TAG, PromptTokens
from .recording import STORE, Recording
from .run import Run
from .unet import context_width, layout_of, unet_of

log = logging.getLogger(__name__)


def bind(
    model: Any,
    references: tuple[Reference, ...],
    schedule: Schedule,
    noise: NoiseSource | None = None,
    record: RecordSettings | None = None,
    strict: bool = False,
) -> Method:
    """References and schedule bound to a model's blocks, all that can be wrong with them found out.

    Args:
        model: ComfyUI's ModelPatcher.
        references: one or more.
        schedule: the settings.
        noise: where the references' noise comes from; by default seeded by the schedule.
        record: which attention to keep.
        strict: whether to refuse to sample where other nodes act in the attention of the same blocks.

    Raises:
        ValueError: naming the input that is wrong and what to do.
    """
    with naming("model"):
        unet = unet_of(model)
    layout = layout_of(unet)
    with naming("schedule: injection_blocks"):
        injection = injection_blocks(schedule.injection, layout)
    with naming("schedule: segmentation_blocks"):
        segmentation = segmentation_blocks(schedule.segmentation, layout)
    for reference in references:
        _check_fits(reference, context_width(unet), model)
    with naming("record: blocks"):
        recorded = recorded_blocks(record.blocks, injection) if record else ()
    noise = noise or SeededNoise(schedule.noise_seed)
    return Method(references, schedule, injection, segmentation, noise, record, recorded, strict)


def _check_fits(reference: Reference, width: int, model: Any) -> None:
    given = reference.conditioning[0][0].shape[-1]
    if given != width:
        raise ValueError(
            f"references: the caption of {reference.concept!r} was encoded {given} wide and this model reads {width}:"
            " connect the CLIP of the same checkpoint to MagicFaceReference"
        )
    channels, expected = reference.latents.shape[1], model.model.latent_format.latent_channels
    if channels != expected:
        raise ValueError(
            f"references: the picture of {reference.concept!r} was encoded to {channels} channels and this model"
            f" has {expected}: connect the VAE of the same checkpoint to MagicFaceReference"
        )


def _detached(patcher: Any, unpatch_all: bool) -> None:
    """A model leaves the device; it is also told so, with False, when it only comes to be another clone's turn."""
    if unpatch_all:
        KEPT.to_main_memory(patcher.model)


Watch = Callable[[Run, int, Tensor, int], None]
"""Called after each step that has regions, with the run, the step, the denoised latent (b, ch, H, W) and the number of
steps. What it raises ends the run."""


def patched(model: Any, method: Method, watcher: Callable[[Any], Watch] | None = None) -> Any:
    """A clone of the model that samples with the method; the model given stays as it is.

    Applied to a model that has the method already, the later one takes its place.
    """
    clone = model.clone()
    clone.remove_callbacks_with_key(CallbacksMP.ON_DETACH, KEY)
    if method.schedule.keep_on == "device":
        clone.add_callback_with_key(CallbacksMP.ON_DETACH, KEY, _detached)
    if clone.wrappers.get(WrappersMP.OUTER_SAMPLE, {}).get(KEY):
        log.warning("MagicFace: the model was patched before; this MagicFaceApply takes the earlier one's place.")
        clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sampling_with(method, watcher))
    return clone


def sampling_with(method: Method, watcher: Callable[[Any], Watch] | None = None) -> Callable[..., Tensor]:
    """The OUTER_SAMPLE wrapper: one run's state is made, and dropped, in here.

    Args:
        method: what to do.
        watcher: the run's model patcher -> what looks on; made anew for each run.
    """

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
        guider = executor.class_obj
        run: Run | None = None
        # Every weight 0 is exactly nothing; the preview still knows the picture.
        if any(reference.active for reference in method.references):
            check_prompt(method, guider.conds.get("positive") or [])
            report_neighbours(method, guider.model_options, guider.conds)
            run = Run(method, guider, len(sigmas) - 1)
            run.install(guider.model_options, seed)
        watch = watcher(guider.model_patcher) if watcher and run else None
        denoised: list[Tensor] = []

        def each_step(step: int, x0: Tensor, x: Tensor, total: int) -> Any:
            denoised[:] = [x0]
            answer = callback(step, x0, x, total) if callback is not None else None
            if run is not None and run.step_done(step) and watch:
                watch(run, step, x0, total)
            return answer

        with uncompiled(guider.model_patcher, guider.model_options) if run else nullcontext():
            samples: Tensor = executor(
                noise, latent_image, sampler, sigmas, denoise_mask, each_step, disable_pbar, seed, **kwargs
            )
        if run is not None:
            run.end()
        as_output = [guider.model_patcher.model.process_latent_out(x0.float().cpu()) for x0 in denoised]
        latents = [samples, *as_output]
        STORE.add(run.recording if run else Recording(method.labels), latents)
        if run is not None and run.recorder is not None:
            GAZES.add(run.recorder.record, latents)
        return samples

    return outer_sample


def check_prompt(method: Method, positive: list[dict[str, Any]]) -> None:
    """Make sure that each concept is in the prompt, before the UNet is called.

    Raises:
        ValueError: naming the node, what was given and what to do.
    """
    tags = [cond[TAG] for cond in positive if isinstance(cond.get(TAG), PromptTokens)]
    if not tags:
        raise ValueError(
            "MagicFaceApply: the sampler's positive prompt does not come from MagicFacePrompt, so the concepts'"
            " words cannot be found in it; encode it with MagicFacePrompt (or pass it through its conditioning input)"
        )
    for concept in method.concepts:
        if method.is_active(concept) and not any(tag.positions(concept.concept_tokens) for tag in tags):
            words = "; ".join(", ".join(tag.words) for tag in tags)
            raise ValueError(
                f"MagicFaceReference: concept: {concept.concept!r} is not in the positive prompt, whose words are"
                f" {words}. Write the phrase into MagicFacePrompt, or name the concept as the prompt does"
            )
    for cond in positive:
        tag, text = cond.get(TAG), cond.get("cross_attn")
        if tag is not None and text is not None and text.shape[1] < len(tag.tokens):
            raise ValueError(
                f"MagicFacePrompt: the positive conditioning has {text.shape[1]} tokens where its text has"
                f" {len(tag.tokens)}: a node behind MagicFacePrompt shortened it; remove that node"
            )


def report_neighbours(method: Method, model_options: dict[str, Any], conds: dict[str, Any]) -> None:
    """Say in one log line who else acts in the attention of the method's blocks.

    Raises:
        ValueError: there are some, and the method is strict.
    """
    blocks = list(dict.fromkeys([*method.injection, *method.segmentation]))
    found = neighbours(model_options.get("transformer_options", {}), blocks)
    if any("gligen" in cond for listed in conds.values() for cond in listed or ()):
        found.append("GLIGEN, of a prompt, as middle_patch")
    if not found:
        return
    if method.strict:
        raise ValueError(
            f"MagicFaceApply: strict: other nodes act in the blocks that MagicFace uses: {'; '.join(found)}. Remove"
            " them, choose other blocks in MagicFaceSchedule, or switch strict off"
        )
    log.info("MagicFace: in the same blocks act: %s.", "; ".join(found))
