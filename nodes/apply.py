"""MagicFaceApply: patches a model so that it samples with the references."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from comfy_api.latest import io

from ..sampling.errors import SamplingError, error_prefix
from ..sampling.method import RecordSettings, Reference, Schedule
from ..sampling.patch import bind, patch_model
from .live_preview import LivePreview
from .sockets import CATEGORY, RecordSocket, ReferenceSocket, ScheduleSocket

MAX_REFERENCES = 10
_PREFIX = "reference"
log = logging.getLogger(__name__)


@contextmanager
def _sampling_errors() -> Iterator[None]:
    """Name the node in errors found while sampling, which happens in the sampler's node; and log them."""
    try:
        yield
    except SamplingError as error:
        message = f"MagicFace{error.node}: {error}" if error.node else str(error)
        log.error("%s", message)
        raise SamplingError(message) from error


class MagicFaceApply(io.ComfyNode):
    """Patches a model so that it samples with the references."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MagicFaceApply",
            display_name="MagicFace Apply",
            category=CATEGORY,
            description="Patches an SD 1.x, SD 2.x or SDXL model so that it samples with the references: first the"
            " whole picture attends to all of them (layout), then each region only to its own (blend).",
            search_aliases=["rsa", "rba", "reference attention", "model patching", "magicface"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model. LoRAs and other patches may come before or after this node."
                ),
                io.Autogrow.Input(
                    "references",
                    template=io.Autogrow.TemplatePrefix(
                        ReferenceSocket.Input("reference", tooltip="From MagicFace Reference or Mask Weight."),
                        prefix=_PREFIX,
                        min=0,  # any socket may be the first that is connected; execute counts them
                        max=MAX_REFERENCES,
                    ),
                    tooltip="1 to 10 references. Where two concepts claim a pixel, the later one gets it.",
                ),
                ScheduleSocket.Input(
                    "schedule", optional=True, tooltip="From MagicFace Schedule. Not connected = the defaults."
                ),
                RecordSocket.Input(
                    "record",
                    optional=True,
                    tooltip="From MagicFace Attention Record. Not connected = no attention is recorded.",
                ),
                io.Boolean.Input(
                    "live_regions",
                    default=False,
                    optional=True,
                    tooltip="Show the regions in the sampler's own preview while it samples. Costs nothing when off.",
                ),
                io.Boolean.Input(
                    "strict",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Refuse to sample if other nodes act in the attention of the same blocks. When off, the log"
                    " names them.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="For the sampler. Its positive prompt must come from MagicFace Prompt.")],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        references: dict[str, Any],
        schedule: Schedule | None = None,
        record: RecordSettings | None = None,
        live_regions: bool = False,
        strict: bool = False,
        **unnested: Any,
    ) -> io.NodeOutput:
        # Links of an API prompt to a socket number above the highest arrive outside the dict, as "references.<name>".
        with error_prefix("MagicFaceApply"):
            given = _in_order({**references, **{name.rpartition(".")[2]: value for name, value in unnested.items()}})
            if not 1 <= len(given) <= MAX_REFERENCES:
                raise ValueError(f"references: {len(given)} connected; connect 1 to {MAX_REFERENCES} references")
            method = bind(model, given, schedule or Schedule(), record=record, strict=strict)
        return io.NodeOutput(patch_model(model, method, LivePreview if live_regions else None, _sampling_errors))


def _in_order(references: dict[str, Any]) -> tuple[Reference, ...]:
    """The connected references in the order of their sockets' numbers."""
    unknown = [name for name in references if not re.fullmatch(rf"{_PREFIX}\d+", name)]
    if unknown:
        raise ValueError(f"references: no input {unknown[0]!r}; name them {_PREFIX}0 to {_PREFIX}{MAX_REFERENCES - 1}")
    for name, given in references.items():
        if given is not None and not isinstance(given, Reference):
            raise ValueError(f"references: {name} is {given!r}; connect the output of MagicFace Reference")
    by_number = sorted(references.items(), key=lambda item: int(item[0].removeprefix(_PREFIX)))
    return tuple(reference for _, reference in by_number if reference is not None)


NODES = [MagicFaceApply]
