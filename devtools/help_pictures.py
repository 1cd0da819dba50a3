"""The pictures of the help pages, made by running shipped workflows on the small model."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .api_format import API_WORKFLOWS
from .client import Client, Prompt
from .contact_sheet import Entry, contact_sheet, save_small
from .demo import PICTURES, pictures_read, references
from .model import with_model
from .pins import ROOT

FOLDER = ROOT / "web" / "docs" / "images"
_MAX_SIDE_PX = 900


@dataclass(frozen=True)
class HelpPicture:
    """How a picture is made.

    Attributes:
        workflow: name of the workflow that is run.
        shows: class of the node whose picture is taken; if empty, only the references are shown.
        variants: text below a picture -> changed inputs, by node class; by default one picture without changes.
        with_references: whether the references are shown above.
        placed: text below a further picture -> for each reference, which half of the picture it is to be in exactly.
    """

    workflow: str
    shows: str = ""
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=lambda: {"": {}})
    with_references: bool = True
    placed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _each(label: str, class_type: str, name: str, *values: float) -> dict[str, dict[str, dict[str, float]]]:
    return {f"{label} {value:g}": {class_type: {name: value}} for value in values}


HELP_PICTURES = {
    "reference": HelpPicture("magicface_with_and_without"),
    "weight": HelpPicture(
        "magicface_two_concepts", "SaveImage", _each("weight", "MagicFaceMaskWeight", "weight", 0, 1, 2, 4)
    ),
    "schedule": HelpPicture(
        "magicface_three_concepts", "SaveImage", _each("switch", "MagicFaceSchedule", "switch", 0, 0.43, 1)
    ),
    "apply": HelpPicture(
        "magicface_three_concepts",
        "SaveImage",
        {"without": {"MagicFaceMaskWeight": {"weight": 0, "injection_weight": 0}}, "with MagicFace": {}},
    ),
    "segmentation": HelpPicture(
        "magicface_two_concepts",
        "MagicFaceSegmentationPreview",
        {"first step": {"MagicFaceSegmentationPreview": {"step": 0}}, "last step": {}},
    ),
    "region": HelpPicture(
        "magicface_two_concepts",
        "SaveImage",
        {"by words": {}},
        placed={"hat above, scarf below": ("upper", "lower"), "hat below, scarf above": ("lower", "upper")},
    ),
    "mask": HelpPicture(
        "magicface_words",
        "MagicFaceConceptMask",
        {part: {"MagicFaceConceptMask": {"concept": part}} for part in ("hat", "face", "hair", "scarf", "shirt")},
        with_references=False,
    ),
    "attention": HelpPicture("magicface_attention_views", "MagicFaceAttentionView", with_references=False),
    "correspondence": HelpPicture("magicface_attention_views", "MagicFaceCorrespondence", with_references=False),
}


def write(client: Client, name: str) -> Path:
    """Make a picture, given its name in HELP_PICTURES; returns its file."""
    wanted = HELP_PICTURES[name]
    prompt = with_model(json.loads((API_WORKFLOWS / f"{wanted.workflow}.json").read_text(encoding="utf-8")))
    if wanted.shows == "MagicFaceConceptMask":
        prompt = only_mask(prompt)
    files = {file: PICTURES / file for file in pictures_read(prompt)}
    above = references(prompt, files) if wanted.with_references else []
    variants = wanted.variants if wanted.shows else {}
    made = [
        Entry(shown_picture(client, with_inputs(prompt, inputs), wanted.shows), text)
        for text, inputs in variants.items()
    ]
    made += [
        Entry(shown_picture(client, with_places(prompt, halves), wanted.shows), text)
        for text, halves in wanted.placed.items()
    ]
    picture = made[0].picture if len(made) == 1 else contact_sheet([above, made])
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_small(picture, FOLDER / f"{name}.jpg", _MAX_SIDE_PX)
    return FOLDER / f"{name}.jpg"


def only_mask(prompt: Prompt) -> Prompt:
    """The first node of a prompt that finds a mask, and the nodes that it reads."""
    name, mask = next((name, node) for name, node in prompt.items() if node["class_type"] == "MagicFaceConceptMask")
    read = {value[0] for value in mask["inputs"].values() if isinstance(value, list)}
    return {name: prompt[name] for name in (*sorted(read), name)}


def with_inputs(prompt: Prompt, inputs: Mapping[str, Mapping[str, Any]]) -> Prompt:
    """A copy of a prompt with changed inputs, which are given by node class."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        node["inputs"].update(inputs.get(node["class_type"], {}))
    return prompt


def with_places(prompt: Prompt, halves: Sequence[str]) -> Prompt:
    """A copy of a prompt with each reference exactly in the upper or the lower half of the picture."""
    prompt = copy.deepcopy(prompt)
    (latent,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "EmptyLatentImage")
    (apply,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "MagicFaceApply")
    width, height = latent["width"], latent["height"]

    def mask(value: float, height: int) -> dict[str, Any]:
        return {"class_type": "SolidMask", "inputs": {"value": value, "width": width, "height": height}}

    prompt["whole"], prompt["half"] = mask(0.0, height), mask(1.0, height // 2)
    for number, half in enumerate(halves):
        composite = {"destination": ["whole", 0], "source": ["half", 0], "x": 0, "operation": "add"}
        composite["y"] = height // 2 if half == "lower" else 0
        prompt[f"mask{number}"] = {"class_type": "MaskComposite", "inputs": composite}
        place = {"mask": [f"mask{number}", 0], "how": "exactly here", "feather_px": 0}
        place["reference"] = apply[f"references.reference{number}"]
        prompt[f"region{number}"] = {"class_type": "MagicFaceRegion", "inputs": place}
        apply[f"references.reference{number}"] = [f"region{number}", 0]
    return prompt


def shown_picture(client: Client, prompt: Prompt, class_type: str) -> Image.Image:
    """Run a prompt and return the picture that the only node of a class shows."""
    outputs = client.run(prompt)["outputs"]
    (node_id,) = (node_id for node_id, node in prompt.items() if node["class_type"] == class_type)
    with Image.open(io.BytesIO(client.view(outputs[node_id]["images"][0]))) as image:
        return image.convert("RGB")
