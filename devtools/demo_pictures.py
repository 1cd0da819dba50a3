"""The pictures of the demo in README and docs/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from .client import Client, Prompt
from .contact_sheet import Entry, contact_sheet, save_small
from .demo import PICTURES, STYLES, WORKFLOW, in_style, make_pictures
from .help_pictures import shown_picture
from .model import with_model
from .pins import ROOT

SHEET, SEEDS = ROOT / "docs" / "demo.jpg", ROOT / "docs" / "demo_seeds.jpg"
FIRST_SEEDS = range(12)
_SHEET_PX, _SEEDS_PX, _ACROSS = 1240, 1240, 6


def write(client: Client, folder: Path) -> Iterator[Path]:
    """Write the demo's sheet, and one with the first seeds in each style; yields the files.

    Args:
        client: the server.
        folder: for pictures on the way.
    """
    prompt = with_model(json.loads(WORKFLOW.read_text(encoding="utf-8")))
    prompts = {style: in_style(prompt, style) for style in STYLES}
    *_, sheet = make_pictures(client, prompts, [PICTURES], folder / "demo")
    with Image.open(sheet) as picture:
        save_small(picture, SHEET, _SHEET_PX)
    yield SHEET
    rows = []
    for style, styled in prompts.items():
        made = [
            Entry(shown_picture(client, with_seed(styled, seed), "SaveImage"), f"{style}, seed {seed}")
            for seed in FIRST_SEEDS
        ]
        rows += [made[first : first + _ACROSS] for first in range(0, len(made), _ACROSS)]
    save_small(contact_sheet(rows), SEEDS, _SEEDS_PX)
    yield SEEDS


def with_seed(prompt: Prompt, seed: int) -> Prompt:
    """Of the demo's prompt, what makes the picture with the method, with another seed."""
    changed = {
        name: {**node, "inputs": {**node["inputs"], **({"seed": seed} if node["class_type"] == "KSampler" else {})}}
        for name, node in prompt.items()
    }
    wanted = [
        name
        for name, node in changed.items()
        if node["class_type"] == "SaveImage" and node["inputs"]["filename_prefix"] == "with_MagicFace"
    ]
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        found.add(name)
        wanted += [value[0] for value in changed[name]["inputs"].values() if isinstance(value, list)]
    return {name: node for name, node in changed.items() if name in found}
