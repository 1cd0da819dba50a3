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


def test_it_queues_with_other_pictures_words_and_seed(client: Client, workflow: Path, tmp_path: Path) -> None:
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


def test_a_mask_from_load_image_and_the_seed_of_an_advanced_sampler(client: Client, workflow: Path) -> None:
    prompt = json.loads(workflow.read_text(encoding="utf-8"))
    prompt["30"]["inputs"]["mask"] = ["10", 1]
    sampler = prompt["60"]
    kept = ("steps", "cfg", "sampler_name", "scheduler", "model", "positive", "negative", "latent_image")
    sampler["class_type"] = "KSamplerAdvanced"
    sampler["inputs"] = {name: sampler["inputs"][name] for name in kept} | {
        "add_noise": "enable", "noise_seed": 1, "steps": 2, "start_at_step": 0, "end_at_step": 2,
        "return_with_leftover_noise": "disable",
    }  # fmt: skip
    workflow.write_bytes(json.dumps(prompt).encode("utf-8-sig"))
    for kind in ("", "_mask"):
        shutil.copyfile(demo.PICTURES / f"magicface_portrait_hat{kind}.png", workflow.parent / f"mine{kind}.png")
    address = client.url.removeprefix("http://")
    before = set(client.get_json("/history"))
    done = queue(
        client,
        workflow,
        "--mask",
        "hat=mine_mask.png",
        "--picture",
        "hat=mine.png",
        "--seed",
        "78",
        "--server",
        address,
    )
    assert done.returncode == 0, done.stderr
    assert "is now the given file alone, not LoadImage (node 10)" in done.stderr
    (entry,) = (entry for key, entry in client.get_json("/history").items() if key not in before)
    assert entry["prompt"][2]["60"]["inputs"]["noise_seed"] == 78


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("--caption", "scarf=x"), "no concept 'scarf'; there are hat", 2),
        (("--set", "Nothing.steps=1"), "the workflow has no Nothing", 2),
        (("--set", "KSampler.sampler_name=none"), "KSampler (node 60), Value not in list: sampler_name", 1),
        (("--prompt", "a landscape"), "MagicFaceReference: concept: 'hat' is not in the positive prompt", 1),
        (("--picture", "hat=not_there.png"), "not_there.png", 2),
        (("--set", "KSampler.step=3"), "KSampler has no input 'step'; there are seed", 2),
        (("--set", '60.model=["62", 0]'), "refused it (400): ", 1),
    ],
)
def test_what_goes_wrong_is_said(
    client: Client, workflow: Path, arguments: tuple[str, ...], said: str, code: int
) -> None:
    assert said in refused(client, workflow, *arguments, code=code)


def test_a_node_that_the_server_lacks_is_named(client: Client, workflow: Path) -> None:
    prompt = json.loads(workflow.read_text(encoding="utf-8"))
    prompt["90"] = {"class_type": "NotThere", "inputs": {}}
    workflow.write_text(json.dumps(prompt))
    assert "NotThere" in refused(client, workflow)


def test_what_cannot_be_read_is_said(client: Client, workflow: Path) -> None:
    assert "has no '.'" in refused(client, workflow, "--set", "steps=3", code=2)
    drawn = api_format.WORKFLOWS / "magicface_one_concept.json"
    assert "Export (API)" in refused(client, drawn, code=2)
    workflow.write_text("{")
    assert "workflow.json, line 1, column 2" in refused(client, workflow, code=2)


def refused(client: Client, workflow: Path, *arguments: str, code: int = 1) -> str:
    done = queue(client, workflow, *arguments)
    assert done.returncode == code and "Traceback" not in done.stderr
    return done.stderr
