"""The figures of a trial as JSON, without paths or names of the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from devtools.client import Prompt
from devtools.pins import ROOT

from .concepts import Concept
from .host import Host
from .jobs import Outcome
from .measures import Run, overlap, read_mask, read_masks
from .verdicts import Verdict

FORMAT = 1
# A folder's path up to its last separator, or an address's host.
_PLACE = re.compile(r"(?<![\w.])(?:\w+://[^\s/]+/?|(?:[A-Za-z]:|~)?[\\/](?:[^\s\\/:'\"]+[\\/])+)")


@dataclass(frozen=True)
class Trial:
    """All that a trial found.

    Attributes:
        made_with: versions and device.
        checkpoint: the name of its file; None for the small model.
        text: the prompt.
        size_px: of the pictures.
        defaults: the inputs of the nodes that are not changed, by class.
        given: the references as they were given.
        concepts: the same, each with a mask.
        agreement: of each given mask with that of its word; None where none was given or found.
        runs, verdicts: what was made, and measured of it.
    """

    made_with: Mapping[str, Any]
    checkpoint: str | None
    text: str
    size_px: int
    defaults: Mapping[str, Mapping[str, Any]]
    given: Sequence[Concept]
    concepts: Sequence[Concept]
    agreement: Sequence[float | None]
    runs: Sequence[Run]
    verdicts: Sequence[Verdict]

    @property
    def words(self) -> list[str]:
        """Of the concepts."""
        return [concept.word for concept in self.concepts]


def figures_of(trial: Trial) -> dict[str, Any]:
    """The figures as JSON; its format is described in docs/trial.md."""
    concepts = zip(trial.given, trial.agreement, strict=True)
    return {
        "format": FORMAT,
        "made_with": dict(trial.made_with),
        "checkpoint": trial.checkpoint,
        "prompt": trial.text,
        "size_px": trial.size_px,
        "defaults": {kind: dict(inputs) for kind, inputs in trial.defaults.items()},
        "concepts": [
            {
                "word": one.word,
                "caption": one.caption,
                "mask": "given" if one.mask else "from words",
                "mask_agrees_with_words": agreement,
            }
            for one, agreement in concepts
        ],
        "runs": [_run(run) for run in trial.runs],
        "settings": [
            {
                "input": verdict.setting.place,
                "default": verdict.default.value,
                "best": verdict.best.value,
                "values": [
                    {"value": s.value, "found": s.found, "agreement": s.agreement, "seconds": s.seconds}
                    for s in verdict.scores
                ],
            }
            for verdict in trial.verdicts
        ],
    }


def _run(run: Run) -> dict[str, Any]:
    setting = run.variant.setting
    return {
        "variant": run.variant.id,
        "changed": {setting.place: run.variant.value} if setting else {},
        "seed": run.seed,
        "seconds": run.seconds,
        "memory_mb": run.memory_mb,
        "region_share": run.shares,
        "words_share": {word: float(mask.mean()) for word, mask in run.words.items()},
        "agreement": run.agreement,
        "findings": [without_places(text) for text in run.findings],
        "error": without_places(run.error) if run.error else None,
    }


def without_places(text: str) -> str:
    """A text without the folders of paths and the hosts of addresses."""
    return _PLACE.sub("", text)


def made_with(host: Host) -> dict[str, Any]:
    """Versions and device, as the server says."""
    stats = host.client.get_json("/system_stats")
    system, device = stats["system"], stats["devices"][0]
    return {
        "trial": _version(),
        "comfyui": system["comfyui_version"],
        "pytorch": system["pytorch_version"],
        "python": system["python_version"].split()[0],
        "system": system["os"],
        "device": device["name"],
        "device_mb": device["vram_total"] >> 20,
    }


def mask_agreement(given: Sequence[Concept], outcomes: Sequence[Outcome]) -> list[float | None]:
    """How far each given mask and that of its word agree, 0..1; None where either is missing."""
    return [
        None if one.mask is None or not outcome.files else _agreement(one, outcome)
        for one, outcome in zip(given, outcomes, strict=True)
    ]


def _agreement(concept: Concept, outcome: Outcome) -> float:
    found = read_masks(outcome.files, [concept.word])[concept.word]
    assert concept.mask is not None
    return overlap(read_mask(concept.mask, (found.shape[1], found.shape[0])), found)


def defaults_in(prompt: Prompt) -> dict[str, dict[str, Any]]:
    """The inputs of the nodes that matter to a picture, by class; what the trial gives each job is left out."""
    left_out = ("caption", "concept", "seed", "text")
    shown = ("KSampler", "MagicFaceReference", "MagicFaceMaskWeight", "MagicFaceSchedule")
    return {
        node["class_type"]: {
            name: value
            for name, value in node["inputs"].items()
            if name not in left_out and not isinstance(value, list)
        }
        for node in prompt.values()
        if node["class_type"] in shown
    }


def _version() -> str:
    """The version of this checkout."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "unknown"
