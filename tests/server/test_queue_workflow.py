"""The shipped client script, run as a person runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from devtools import api_format, demo, model
from devtools.client import Client

SCRIPT = api_format.API_WORKFLOWS / "queue_workflow.py"


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """A shipped workflow with the small model."""
    prompt = json.loads((api_format.API_WORKFLOWS / "magicface_one_concept.json").read_text(encoding="utf-8"))
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(model.with_model(prompt)))
    return file


def queue(client: Client, workflow: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(workflow), "--server", client.url, *arguments]
    return subprocess.run(command, cwd=workflow.parent, capture_output=True, text=True, timeout=300, check=False)


def test_a_workflow_is_queued_with_other_pictures_text_and_seed(client: Client, workflow: Path, tmp_path: Path) -> None:
    for kind in ("", "_mask"):
        shutil.copyfile(demo.PICTURES / f"magicface_portrait_scarf{kind}.png", tmp_path / f"mine{kind}.png")
    before = set(client.get_json("/history"))
    done = queue(
        client, workflow, "--picture", "hat=mine.png", "--mask", "hat=mine_mask.png", "--caption", "hat=a person",
        "--prompt", "a person wearing a hat", "--seed", "77", "--set", "KSampler.steps=2", "--output", "made",
        "--set", "MagicFaceReference.size=128", "--set", "EmptyLatentImage.width=128",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    saved = [tmp_path / line for line in done.stdout.splitlines()]
    assert len(saved) == 2
    for file in saved:
        with Image.open(file) as image:
            assert image.width == 128
    (entry,) = (entry for key, entry in client.get_json("/history").items() if key not in before)
    inputs = {node["class_type"]: node["inputs"] for node in entry["prompt"][2].values()}
    assert inputs["MagicFaceReference"]["caption"] == "a person"
    assert inputs["MagicFacePrompt"]["text"] == "a person wearing a hat"
    assert (inputs["KSampler"]["seed"], inputs["KSampler"]["steps"]) == (77, 2)
    assert inputs["LoadImage"]["image"].startswith("mine") and inputs["LoadImageMask"]["image"].startswith("mine_mask")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--caption", "scarf=x"), "no concept 'scarf'; there are hat"),
        (("--set", "Nothing.steps=1"), "the workflow has no Nothing"),
        (("--set", "KSampler.sampler_name=none"), "KSampler (node 60), Value not in list: sampler_name"),
        (("--prompt", "a landscape"), "MagicFaceReference: concept: 'hat' is not in the positive prompt"),
        (("--picture", "hat=not_there.png"), "not_there.png"),
        (("--set", "KSampler.step=3"), "KSampler has no input 'step'; there are seed"),
    ],
)
def test_mistakes_are_explained(client: Client, workflow: Path, arguments: tuple[str, ...], said: str) -> None:
    done = queue(client, workflow, *arguments)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


def test_unreadable_input_is_explained(client: Client, workflow: Path) -> None:
    assert "has no '.'" in refused(client, workflow, "--set", "steps=3", code=2)
    drawn = api_format.WORKFLOWS / "magicface_one_concept.json"
    assert "is not in API format" in refused(client, drawn)
    workflow.write_text("{")
    assert refused(client, workflow)


def refused(client: Client, workflow: Path, *arguments: str, code: int = 1) -> str:
    done = queue(client, workflow, *arguments)
    assert done.returncode == code and "Traceback" not in done.stderr
    return done.stderr
