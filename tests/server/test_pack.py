"""The pack in a real server: its nodes, its workflows, the whole method through the API."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from devtools import api_format, demo, model
from devtools.client import Client, PromptError
from devtools.install import Install
from devtools.pins import ROOT
from devtools.server import Server
from lab.evaluation.world import colour_distance
from lab.judge import load_judge, look
from lab.portraits import STYLES

Dev = Callable[..., "subprocess.Popen[str]"]

# The files that the demo saves in each style; first the pictures without and with the method.
DEMO = ("without_MagicFace", "with_MagicFace", "segmentation")
DEMO_COLOUR_ERROR, DEMO_GAIN = 40.0, 0.7  # out of 255, and as a share of the error without the method
NODES = set(json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")))


@pytest.fixture
def prompt(client: Client) -> dict[str, dict[str, Any]]:
    """A shipped workflow with the demo's model, small enough to run in seconds."""
    workflow = api_format.API_WORKFLOWS / "magicface_two_concepts.json"
    prompt = model.with_model(json.loads(workflow.read_text(encoding="utf-8")))
    small = {
        "EmptyLatentImage": {"width": 128, "height": 128},
        "MagicFaceReference": {"size": 128},
        "KSampler": {"steps": 3},
    }
    for node in prompt.values():
        node["inputs"].update(small.get(node["class_type"], {}))
    for name in demo.pictures_read(prompt):
        client.upload(demo.PICTURES / name)
    return prompt


def only(prompt: dict[str, dict[str, Any]], class_type: str) -> str:
    (node_id,) = (node_id for node_id, node in prompt.items() if node["class_type"] == class_type)
    return node_id


def test_the_packs_nodes_are_loaded(client: Client) -> None:
    known = client.get_json("/object_info")
    assert {name for name in known if name.startswith("MagicFace")} == {*NODES, model.LOADER["class_type"]}


def test_the_packs_workflows_are_in_the_template_browser(client: Client) -> None:
    shipped = sorted(file.stem for file in api_format.WORKFLOWS.glob("*.json"))
    assert len(shipped) >= 11
    assert sorted(client.get_json("/workflow_templates")["magicface"]) == shipped
    for name in shipped:
        graph = client.get_json(f"/api/workflow_templates/magicface/{name}.json")
        assert graph["nodes"], "the editor's format, which the browser reads, not the API format"
        with Image.open(io.BytesIO(client.get(f"/api/workflow_templates/magicface/{name}.jpg"))) as thumbnail:
            assert min(thumbnail.size) >= 250


def test_example_pictures_are_found_by_a_fresh_install(install: Install, tmp_path: Path) -> None:
    """Nothing has been uploaded here; a person's own file of the same name does not change."""
    read = {
        name
        for twin in api_format.API_WORKFLOWS.glob("*.json")
        for name in demo.pictures_read(json.loads(twin.read_text(encoding="utf-8")))
    }
    own = min(read)
    (tmp_path / "base" / "input").mkdir(parents=True)
    (tmp_path / "base" / "input" / own).write_bytes(b"a person's own")
    with Server(install, tmp_path / "base") as server:
        offered = server.client.get_json("/object_info/LoadImage")["LoadImage"]["input"]["required"]["image"]
    assert read <= set(offered[0] if isinstance(offered[0], list) else offered[1]["options"])
    for name in read - {own}:
        assert (tmp_path / "base" / "input" / name).read_bytes() == (demo.PICTURES / name).read_bytes()
    assert (tmp_path / "base" / "input" / own).read_bytes() == b"a person's own"


def test_a_prompt_queued_twice_is_cached_and_equal(client: Client, prompt: dict[str, dict[str, Any]]) -> None:
    first = client.run(prompt)
    ran: list[str] = []

    def listener(kind: str, data: dict[str, Any]) -> None:
        if kind == "executing" and data["node"]:
            ran.append(data["node"])

    second = client.run(prompt, listener)
    assert ran == []
    # What a node shows that ends no graph, such as a reference, is sent only when it runs.
    saves = ("SaveImage", "PreviewImage", "MagicFaceSegmentationPreview")
    ends = {node: shown for node, shown in first["outputs"].items() if prompt[node]["class_type"] in saves}
    assert second["outputs"] == ends != {}
    # Sampling again after another run gives the first picture, bit for bit.
    save = only(prompt, "SaveImage")
    sampler = prompt[only(prompt, "KSampler")]["inputs"]
    pixels = [decoded(client, first["outputs"][save])]
    for seed in (sampler["seed"] + 1, sampler["seed"]):
        sampler["seed"] = seed
        prompt[save]["inputs"]["filename_prefix"] = f"seed_{seed}"
        pixels.append(decoded(client, client.run(prompt)["outputs"][save]))
    assert pixels[0] == pixels[2] != pixels[1]


def test_a_bad_input_ends_with_the_nodes_message(client: Client, prompt: dict[str, dict[str, Any]]) -> None:
    prompt[only(prompt, "MagicFacePrompt")]["inputs"]["text"] = "a landscape with nothing in it"
    with pytest.raises(PromptError, match=r"failed: SamplingError: .*MagicFace"):
        client.run(prompt)


def test_the_demo_saves_picture_and_segmentation(dev: Dev, prompt: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    workflow = tmp_path / "small.json"
    workflow.write_text(json.dumps(prompt))
    process = dev("demo", "--workflow", str(workflow), "--output", "made")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    for name in ("picture.png", "segmentation.png"):
        assert str(tmp_path / "made" / name) in output
        with Image.open(tmp_path / "made" / name) as image:
            assert image.format == "PNG" and min(image.size) >= 128
            assert len(image.convert("RGB").getcolors(image.width * image.height)) > 1


def test_the_demo_gives_the_references_looks_to_their_parts(dev: Dev, tmp_path: Path) -> None:
    process = dev("demo", "--output", "made")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    made = tmp_path / "made"
    assert {path.name for path in made.iterdir()} == {"sheet.png", *demo.STYLES}
    judge = load_judge()
    concepts = [
        node["inputs"]["concept"]
        for node in json.loads(demo.WORKFLOW.read_text(encoding="utf-8")).values()
        if node["class_type"] == "MagicFaceReference"
    ]
    assert len(concepts) == 3
    for style in demo.STYLES:
        assert {path.name for path in (made / style).iterdir()} == {f"{name}.png" for name in DEMO}
        errors: dict[str, list[float]] = {}
        for name in DEMO[:2]:
            verdict = look(judge, pixels(made / style / f"{name}.png")[None])
            assert STYLES[int(verdict.styles[0])] == style, name
            for concept in concepts:
                where = verdict.pixels_of(concept)[0]
                assert where.float().mean() > 0.005, f"{concept} is not in {name}"
                own = 255 * verdict.pictures[0][:, where].T.double().numpy()
                reference = 255 * pixels(demo.PICTURES / f"magicface_portrait_{concept}.png")
                mask = pixels(demo.PICTURES / f"magicface_portrait_{concept}_mask.png")[..., 0] > 0.5
                errors.setdefault(concept, []).append(colour_distance(own, reference[mask].double().numpy()))
        for concept, (without, with_method) in errors.items():
            limit = min(DEMO_COLOUR_ERROR, DEMO_GAIN * without)
            assert with_method < limit, f"{style}, {concept}: {without}, {with_method}"


def pixels(file: Path) -> torch.Tensor:
    """(h, w, 3) float32 in 0..1."""
    with Image.open(file) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255


def decoded(client: Client, output: dict[str, Any]) -> bytes:
    (shown,) = output["images"]
    with Image.open(io.BytesIO(client.view(shown))) as image:
        return image.tobytes()


def test_eleven_references_are_refused_by_name(client: Client, prompt: dict[str, dict[str, Any]]) -> None:
    """The editor has ten sockets; more references, which a script can link, must not be dropped silently."""
    apply = prompt[only(prompt, "MagicFaceApply")]["inputs"]
    for number in range(2, 11):
        apply[f"references.reference{number}"] = apply["references.reference0"]
    with pytest.raises(PromptError, match="MagicFaceApply: references: 11 connected; connect 1 to 10"):
        client.run(prompt)


def test_no_reference_is_refused(client: Client, prompt: dict[str, dict[str, Any]]) -> None:
    apply = prompt[only(prompt, "MagicFaceApply")]["inputs"]
    for name in [name for name in apply if name.startswith("references.")]:
        del apply[name]
    with pytest.raises(PromptError, match="MagicFaceApply: references: 0 connected; connect 1 to 10"):
        client.run(prompt)


def test_any_one_connected_reference_suffices(client: Client, prompt: dict[str, dict[str, Any]]) -> None:
    """The editor leaves the first reference out of the prompt if its node is muted."""
    apply = prompt[only(prompt, "MagicFaceApply")]["inputs"]
    del apply["references.reference0"]
    client.run(prompt)


def test_the_api_workflows_are_what_the_editor_would_queue(client: Client) -> None:
    """Node ids, input names, links and widget values of every workflow are checked with the server's definitions."""
    known = client.get_json("/object_info")
    workflows = sorted(api_format.WORKFLOWS.glob("*.json"))
    assert workflows
    for file in workflows:
        if file.stem == "magicface_sam3_masks" and "SAM3_Detect" not in known:
            continue  # an older ComfyUI
        made = api_format.api_format(json.loads(file.read_text(encoding="utf-8")), known)
        assert made == json.loads((api_format.API_WORKFLOWS / file.name).read_text(encoding="utf-8")), file.name
        for node_id, node in made.items():
            info = known[node["class_type"]]
            names = {name for group in ("required", "optional") for name in info["input"].get(group, {})}
            assert {name.partition(".")[0] for name in node["inputs"]} <= names, f"{file.name}: node {node_id}"
            for value in node["inputs"].values():
                if isinstance(value, list):
                    source, output = value
                    assert output < len(known[made[source]["class_type"]]["output"])


def test_the_packs_blueprints_are_offered(client: Client) -> None:
    """Their nodes exist, and values that are not given are the nodes' defaults."""
    known = client.get_json("/object_info")
    offered = client.get_json("/global_subgraphs")
    ours = {entry["name"]: key for key, entry in offered.items() if entry["info"]["node_pack"].endswith("magicface")}
    assert sorted(ours) == sorted(file.stem for file in (ROOT / "subgraphs").glob("*.json"))
    for name, key in ours.items():
        blueprint = json.loads(client.get_json(f"/global_subgraphs/{key}")["data"])
        made = api_format.api_format(blueprint, known)
        assert any(node["class_type"] == "MagicFaceReference" for node in made.values()) or name == "MagicFace Picture"
        for node in made.values():
            if node["class_type"] == "MagicFaceConceptMask":
                for given in ("size", "threshold", "edge_px", "blocks"):
                    default = known["MagicFaceConceptMask"]["input"]["required"][given][1]["default"]
                    assert node["inputs"][given] == default


def test_the_portrait_blueprint_runs(client: Client) -> None:
    """As one node with pictures, words and a Save Image; the small model is in place of the checkpoint."""
    blueprint = json.loads((ROOT / "subgraphs" / "MagicFace Portrait.json").read_text(encoding="utf-8"))
    (host,) = blueprint["nodes"]
    caption = "a person with a face, hair and a shirt, wearing a hat and a scarf"
    values = {"caption_1": caption, "concept_1": "hat", "caption_2": caption, "concept_2": "scarf", "prompt": caption}
    small = {"width": 128, "height": 128, "steps": 2}
    widgets = [given["name"] for given in host["inputs"] if "widget" in given]
    given = dict(zip(widgets, host["widgets_values"], strict=True)) | values | small
    host["widgets_values"] = [given[name] for name in widgets]
    made = model.with_model(api_format.api_format(blueprint, client.get_json("/object_info")))
    for node in made.values():
        node["inputs"].update(small if node["class_type"] == "EmptyLatentImage" else {})
    for number, word in enumerate(("hat", "scarf")):
        client.upload(demo.PICTURES / f"magicface_portrait_{word}.png")
        made[f"picture{number}"] = {"class_type": "LoadImage", "inputs": {"image": f"magicface_portrait_{word}.png"}}
        for node in made.values():
            if node["inputs"].get("concept") == word:
                node["inputs"]["image"] = [f"picture{number}", 0]
    (decode,) = (key for key, node in made.items() if node["class_type"] == "VAEDecode")
    made["save"] = {"class_type": "SaveImage", "inputs": {"images": [decode, 0], "filename_prefix": "portrait"}}
    assert decoded(client, client.run(made)["outputs"]["save"])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the server's memory from /proc")
def test_memory_does_not_grow(install: Install, tmp_path: Path, prompt: dict[str, dict[str, Any]]) -> None:
    """Ten different prompts on one server: seeds, weights, words and sizes."""
    with Server(install, tmp_path / "base", flags=("--cache-classic",)) as server:
        for name in demo.pictures_read(prompt):
            server.client.upload(demo.PICTURES / name)
        used = []
        for number in range(14):
            prompt[only(prompt, "KSampler")]["inputs"]["seed"] = number
            for node in prompt.values():
                if node["class_type"] == "MagicFaceMaskWeight":
                    node["inputs"]["weight"] = 1.0 + number / 10
            prompt[only(prompt, "MagicFacePrompt")]["inputs"]["text"] = f"boy number {number} wearing a hat and a scarf"
            prompt[only(prompt, "EmptyLatentImage")]["inputs"]["width"] = 128 + 64 * (number % 2)
            server.client.run(prompt)
            used.append(server.resident_bytes())
    assert max(used[4:]) - used[3] < 64 * 2**20, [f"{size / 2**20:.0f} MiB" for size in used]
