"""MagicFaceSchedule: when, where and how MagicFace acts."""

from typing import Any, get_args

from comfy_api.latest import io

from ..attention.blocks import PRESETS
from ..sampling.errors import error_prefix
from ..sampling.method import Foreground, Schedule
from ..sampling.references.cache import AUTO_MB, CacheLocation
from .sockets import CATEGORY, ScheduleSocket, check_choice, check_range, fraction_input

_DEFAULTS = Schedule()


class MagicFaceSchedule(io.ComfyNode):
    """Settings of the stages, blocks, regions and the reference cache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceSchedule",
            display_name="MagicFace Schedule",
            category=CATEGORY,
            description="When, where and how MagicFace acts. Leave it out for the defaults.",
            search_aliases=["stage switch", "rsa rba schedule", "magicface settings"],
            inputs=[
                fraction_input(
                    "switch",
                    _DEFAULTS.switch,
                    "Part of sampling at which stage 1 (layout: the picture attends to all references) changes to stage"
                    " 2 (blend: each region attends only to its own reference).",
                ),
                fraction_input("start", _DEFAULTS.start, "Part of sampling at which MagicFace begins; at most switch."),
                fraction_input("end", _DEFAULTS.end, "Part of sampling at which MagicFace ends; at least switch."),
                io.Boolean.Input(
                    "semantic_guidance",
                    default=_DEFAULTS.guidance,
                    tooltip="Strengthen guidance in regions where it is weak, and weaken it in the background.",
                ),
                _blocks_input(
                    "injection_blocks",
                    _DEFAULTS.injection_blocks,
                    "Blocks in which the picture attends to the references. auto = the decoder at its two finest"
                    " attention resolutions.",
                ),
                _blocks_input(
                    "segmentation_blocks",
                    _DEFAULTS.segmentation_blocks,
                    "Blocks whose attention the regions are computed from. auto = all at 1/2, 1/4 and 1/8 of the"
                    " latent's size; in SDXL six of its seventy, which find nearly the same regions.",
                ),
                fraction_input(
                    "token_suppression",
                    0.0,
                    "Factor on all words that name no concept, when each pixel is assigned to a word. Lower gives the"
                    " concepts larger regions. 0 = auto: 0.9 for one concept, 0.6 for two, 0.5 for more.",
                    step=0.05,
                    advanced=True,
                ),
                io.Combo.Input(
                    "foreground",
                    options=list(get_args(Foreground)),
                    default=_DEFAULTS.foreground,
                    advanced=True,
                    tooltip="Whether regions are cut to the foreground. auto = if token suppression is below 0.9.",
                ),
                io.Int.Input(
                    "noise_seed",
                    default=_DEFAULTS.noise_seed,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    advanced=True,
                    tooltip="Seed of the noise that is added to the references. Independent of the sampler's seed.",
                ),
                io.Int.Input(
                    "keep_mb",
                    default=_DEFAULTS.cache_mb,
                    min=AUTO_MB,
                    max=1 << 20,
                    optional=True,
                    tooltip="Cache (MB) for the references' keys and values: later runs, also with other seeds, prompts"
                    " or weights, then cost little extra. -1 = auto: up to half of the free memory. 0 = no cache.",
                ),
                io.Combo.Input(
                    "keep_on",
                    options=list(get_args(CacheLocation)),
                    default=_DEFAULTS.cache_location,
                    optional=True,
                    advanced=True,
                    tooltip="Where the cache is: main memory (RAM), or device (VRAM, avoids copies).",
                ),
                fraction_input(
                    "refresh",
                    _DEFAULTS.refresh,
                    "Part of sampling for which the references are computed once: 0.17 = six times in a run, which is"
                    " much faster and loses next to nothing. 0 = at every noise level, as in the paper.",
                    optional=True,
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
        refresh: float = _DEFAULTS.refresh,
    ) -> io.NodeOutput:
        with error_prefix("MagicFaceSchedule"):
            fractions = {
                "switch": switch, "start": start, "end": end, "token_suppression": token_suppression, "refresh": refresh
            }  # fmt: skip
            for name, value in fractions.items():
                check_range(name, value, 0.0, 1.0)
            if start > end:
                raise ValueError(f"start: is {start:g}, later than end ({end:g}); choose a start before the end")
            if not start <= switch <= end:
                raise ValueError(
                    f"switch: is {switch:g}, outside start..end ({start:g}..{end:g}); move it between them"
                )
            check_choice("foreground", foreground, get_args(Foreground))
            if keep_mb < AUTO_MB:
                raise ValueError(f"keep_mb: is {keep_mb}; give the cache budget in MB, -1 for auto, or 0 for no cache")
            check_choice("keep_on", keep_on, get_args(CacheLocation))
            for name, blocks in (("injection_blocks", injection_blocks), ("segmentation_blocks", segmentation_blocks)):
                if not blocks.strip():
                    raise ValueError(f"{name}: is empty; give block names such as output.3-5, or auto")
        schedule = Schedule(
            start=start,
            switch=switch,
            end=end,
            injection_blocks=injection_blocks,
            segmentation_blocks=segmentation_blocks,
            suppression=token_suppression or None,  # 0 = auto
            foreground=foreground,
            guidance=semantic_guidance,
            noise_seed=noise_seed,
            cache_mb=keep_mb,
            cache_location=keep_on,
            refresh=refresh,
        )
        return io.NodeOutput(schedule)


def _blocks_input(name: str, default: str, tooltip: str) -> Any:
    names = "Block names such as output.3-5, middle or output.0.2-9 (with depth), separated by commas; or a preset: "
    return io.String.Input(name, default=default, advanced=True, tooltip=f"{tooltip} {names}{', '.join(PRESETS)}.")


NODES = [MagicFaceSchedule]
