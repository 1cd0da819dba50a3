"""MagicFaceSchedule: when and where the method acts."""

from typing import get_args

from comfy_api.latest import io

from ..attention.blocks import PRESETS
from ..sampling.errors import error_prefix
from ..sampling.method import Foreground, Schedule
from ..sampling.references.cache import CacheLocation
from .sockets import CATEGORY, ScheduleSocket, check_choice, check_range

AUTO_SUPPRESSION = 0.0
_DEFAULTS = Schedule()


class MagicFaceSchedule(io.ComfyNode):
    """Stages, blocks and segmentation settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        percent = {"min": 0.0, "max": 1.0, "step": 0.01}
        names = (
            "Names such as output.3-5, middle or output.0.2-9 (with depth), separated by commas, or a preset:"
            f" {', '.join(PRESETS)}."
        )
        return io.Schema(
            node_id="MagicFaceSchedule",
            display_name="MagicFace Schedule",
            category=CATEGORY,
            description="When, in which blocks and how MagicFace acts. Not needed for the authors' defaults.",
            search_aliases=["stage switch", "rsa rba schedule", "magicface settings"],
            inputs=[
                io.Float.Input(
                    "switch",
                    default=_DEFAULTS.switch,
                    **percent,
                    tooltip="Part of sampling at which stage 1 (layout, all references at once) gives way to stage 2"
                    " (each region its own reference).",
                ),
                io.Float.Input(
                    "start",
                    default=_DEFAULTS.start,
                    **percent,
                    tooltip="Part of sampling at which MagicFace begins, at the switch at the latest.",
                ),
                io.Float.Input(
                    "end",
                    default=_DEFAULTS.end,
                    **percent,
                    tooltip="Part of sampling at which MagicFace ends, not before the switch.",
                ),
                io.Boolean.Input(
                    "semantic_guidance",
                    default=_DEFAULTS.guidance,
                    tooltip="Push harder the regions that guidance neglects, and the background less.",
                ),
                io.String.Input(
                    "injection_blocks",
                    default=_DEFAULTS.injection_blocks,
                    advanced=True,
                    tooltip="Blocks that look at the references. auto = the decoder at its two finest attention"
                    " resolutions. " + names,
                ),
                io.String.Input(
                    "segmentation_blocks",
                    default=_DEFAULTS.segmentation_blocks,
                    advanced=True,
                    tooltip="Blocks whose attention finds the regions. auto = all at 1/2, 1/4 and 1/8 of the"
                    " latent's size; of SDXL, whose blocks are many, six that tell nearly the same. " + names,
                ),
                io.Float.Input(
                    "token_suppression",
                    default=AUTO_SUPPRESSION,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Factor on the words that name no concept when pixels choose their word: lower gives the"
                    " concepts more. 0 = auto: 0.9 for one concept, 0.6 for two, 0.5 for more.",
                ),
                io.Combo.Input(
                    "foreground",
                    options=list(get_args(Foreground)),
                    default=_DEFAULTS.foreground,
                    advanced=True,
                    tooltip="Whether regions are cut to the foreground. auto = where token suppression is below 0.9.",
                ),
                io.Int.Input(
                    "noise_seed",
                    default=_DEFAULTS.noise_seed,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    advanced=True,
                    tooltip="Seed of the noise that is put on the references, apart from the sampler's seed.",
                ),
                io.Int.Input(
                    "keep_mb",
                    default=_DEFAULTS.cache_mb,
                    min=0,
                    max=1 << 20,
                    optional=True,
                    tooltip="How many MB of what the references leave at each step may be kept: other seeds, prompts"
                    " and weights at the same steps need not compute it again, and the method costs little then. The"
                    " log says how much would hold all. 0 = nothing is kept.",
                ),
                io.Combo.Input(
                    "keep_on",
                    options=list(get_args(CacheLocation)),
                    default=_DEFAULTS.cache_location,
                    optional=True,
                    advanced=True,
                    tooltip="Where: in main memory, or on the device, which saves the way and takes of its memory.",
                ),
            ],
            outputs=[ScheduleSocket.Output("schedule", tooltip="For MagicFace Apply.")],
        )

    @classmethod
    def execute(
        cls,
        switch: float,
        start: float,
        end: float,
        semantic_guidance: bool,
        injection_blocks: str,
        segmentation_blocks: str,
        token_suppression: float,
        foreground: Foreground,
        noise_seed: int,
        keep_mb: int = _DEFAULTS.cache_mb,
        keep_on: CacheLocation = _DEFAULTS.cache_location,
    ) -> io.NodeOutput:
        with error_prefix("MagicFaceSchedule"):
            for name, value in (("switch", switch), ("start", start), ("end", end)):
                check_range(name, value, 0.0, 1.0)
            check_range("token_suppression", token_suppression, 0.0, 1.0)
            if start > end:
                raise ValueError(f"start: is {start:g}, later than end ({end:g}); begin before you end")
            if not start <= switch <= end:
                raise ValueError(
                    f"switch: is {switch:g}, outside start..end ({start:g}..{end:g}); move it between them"
                )
            check_choice("foreground", foreground, get_args(Foreground))
            if keep_mb < 0:
                raise ValueError(f"keep_mb: is {keep_mb}; give the most MB to keep, or 0 to keep nothing")
            check_choice("keep_on", keep_on, get_args(CacheLocation))
            for name, blocks in (("injection_blocks", injection_blocks), ("segmentation_blocks", segmentation_blocks)):
                if not blocks.strip():
                    raise ValueError(f"{name}: is empty; give block names such as output.3-5, or auto")
        suppression = None if token_suppression == AUTO_SUPPRESSION else token_suppression
        schedule = Schedule(
            start=start,
            switch=switch,
            end=end,
            injection_blocks=injection_blocks,
            segmentation_blocks=segmentation_blocks,
            suppression=suppression,
            foreground=foreground,
            guidance=semantic_guidance,
            noise_seed=noise_seed,
            cache_mb=keep_mb,
            cache_location=keep_on,
        )
        return io.NodeOutput(schedule)


NODES = [MagicFaceSchedule]
