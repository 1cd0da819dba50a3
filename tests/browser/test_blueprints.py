"""Blueprints and the app, in both renderings, with the pinned and with the newest front end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from devtools.api_format import API_WORKFLOWS, api_format
from devtools.model import INPUTS, LOADER, with_model
from devtools.workflows import NOT_RUN

from .editor import Editor, pixels

CAPTION = "a person with a face, hair and a shirt, wearing a hat and a scarf"
OpenEditor = Callable[[str, bool], Editor]
SaveScreenshot = Callable[[Editor, str], None]
RENDERINGS = [("pinned", False), ("pinned", True), ("newest", True)]
IDS = ["pinned-canvas", "pinned-nodes2", "newest-nodes2"]


def saved_from(prompt: dict[str, Any]) -> dict[str, Any]:
    """All that the saved picture is made of, whatever ids the nodes have."""

    def of(link: list[Any]) -> dict[str, Any]:
        node = prompt[link[0]]
        inputs = {name: of(value) if isinstance(value, list) else value for name, value in node["inputs"].items()}
        return {"class": node["class_type"], "output": link[1], "inputs": inputs}

    (save,) = (node for node in prompt.values() if node["class_type"] == "SaveImage")
    return of(save["inputs"]["images"])


def saved_picture(editor: Editor, entry: dict[str, Any]) -> bytes:
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    shown = [one for output in entry["outputs"].values() for one in output["images"] if one["type"] == "output"]
    return pixels(editor.client, shown[0])


def without_titles(prompt: dict[str, Any]) -> dict[str, Any]:
    return {key: {name: node[name] for name in ("class_type", "inputs")} for key, node in prompt.items()}


@pytest.mark.parametrize(("front_end", "nodes_2"), RENDERINGS, ids=IDS)
def test_concepts_are_turned_back_into_their_nodes(
    open_editor: OpenEditor, save_screenshot: SaveScreenshot, front_end: str, nodes_2: bool
) -> None:
    editor = open_editor(front_end, nodes_2)
    editor.open_template("magicface_words")
    editor.set("50", steps=4)
    before = editor.prompt()
    graph = editor.page.evaluate("() => window.app.graph.serialize()")
    assert without_titles(api_format(graph, editor.client.get_json("/object_info"))) == without_titles(before)
    picture = saved_picture(editor, editor.queue())
    editor.zoom_to_fit()
    save_screenshot(editor, f"words_{front_end}_{'nodes2' if nodes_2 else 'canvas'}")
    editor.unpack("30")
    editor.unpack("31")
    if front_end == "newest":  # older ones drop references when MagicFace Apply is unpacked; see docs/workflows.md
        editor.unpack("50")
    editor.save_and_load()
    nodes = editor.nodes()
    assert sum(node["type"] == "MagicFaceConceptMask" for node in nodes) == 2
    assert saved_from(editor.prompt()) == saved_from(before)
    if (front_end, nodes_2) != ("pinned", True):
        assert saved_picture(editor, editor.queue()) == picture
    assert editor.complaints == []


def test_blueprints_are_inserted_saved_and_run(open_editor: OpenEditor, save_screenshot: SaveScreenshot) -> None:
    editor = open_editor("pinned", False)
    editor.command("Comfy.NewBlankWorkflow")
    editor.settle(1500)
    model = editor.add("MagicFace tiny model", 0, 0)
    hat, scarf = (editor.add("Load Image", 0, 400 * row) for row in (1, 2))
    mask = editor.add("Load Image (as Mask)", 0, 1200)
    concept = editor.add("MagicFace Concept", 500, 200)
    masked = editor.add("MagicFace Concept with Mask", 500, 800)
    picture, save = editor.add("MagicFace Picture", 1000, 0), editor.add("Save Image", 1500, 0)
    editor.set(model, **LOADER["inputs"])
    for loader, name in ((hat, "hat"), (scarf, "scarf"), (mask, "scarf_mask")):
        editor.set(loader, image=f"magicface_portrait_{name}.png")
    editor.set(mask, channel="red")
    editor.set(concept, caption=CAPTION, concept="hat")
    editor.set(masked, caption=CAPTION, concept="scarf", weight=2.0)
    editor.set(picture, prompt=CAPTION, seed=5, steps=4, cfg=4.0, **INPUTS["EmptyLatentImage"])
    editor.zoom_to_fit()
    for name in ("MODEL", "CLIP", "VAE"):
        for target in (concept, masked, picture):
            if name != "MODEL" or target != masked:
                editor.connect(model, name, target, name.lower())
    editor.connect(hat, "IMAGE", concept, "image")
    editor.connect(scarf, "IMAGE", masked, "image")
    editor.connect(mask, "MASK", masked, "mask")
    editor.connect(concept, "reference", picture, "reference_1")
    editor.connect(masked, "reference", picture, "reference_2")
    editor.connect(picture, "image", save, "images")
    save_screenshot(editor, "blueprints")
    made = editor.prompt()
    apply = next(node["inputs"] for node in made.values() if node["class_type"] == "MagicFaceApply")
    assert [name for name in apply if name.startswith("references.")] == [
        "references.reference0",
        "references.reference1",
    ]
    editor.save_and_load()
    assert editor.prompt() == made
    graph = editor.page.evaluate("() => window.app.graph.serialize()")
    assert without_titles(api_format(graph, editor.client.get_json("/object_info"))) == without_titles(made)
    for node in made.values():
        if "size" in node["inputs"]:  # inside the blueprints
            node["inputs"].update(INPUTS[node["class_type"]])
    assert saved_picture(editor, editor.client.run(made))
    assert editor.complaints == []


@pytest.mark.parametrize(("front_end", "nodes_2"), RENDERINGS, ids=IDS)
def test_a_portrait_is_turned_back_into_its_nodes(
    open_editor: OpenEditor, save_screenshot: SaveScreenshot, front_end: str, nodes_2: bool
) -> None:
    """The prompts run with the small model in place of the checkpoint inside."""
    editor = open_editor(front_end, nodes_2)
    editor.command("Comfy.NewBlankWorkflow")
    editor.settle(1500)
    hat, scarf = (editor.add("Load Image", 0, 400 * row) for row in (0, 1))
    portrait, save = editor.add("MagicFace Portrait", 500, 0), editor.add("Save Image", 1000, 0)
    for loader, name in ((hat, "hat"), (scarf, "scarf")):
        editor.set(loader, image=f"magicface_portrait_{name}.png")
    words = {"caption_1": CAPTION, "concept_1": "hat", "caption_2": CAPTION, "concept_2": "scarf", "prompt": CAPTION}
    editor.set(portrait, **words, weight_2=2.0, seed=5)
    editor.link(hat, "IMAGE", portrait, "image_1")
    editor.link(scarf, "IMAGE", portrait, "image_2")
    editor.link(portrait, "image", save, "images")
    editor.zoom_to_fit()
    save_screenshot(editor, f"portrait_{front_end}_{'nodes2' if nodes_2 else 'canvas'}")
    before = with_model(editor.prompt())
    picture = saved_picture(editor, editor.client.run(before))
    editor.unpack(portrait)
    if front_end == "pinned":  # what docs/workflows.md says is lost
        (second,) = (node["id"] for node in editor.nodes() if node["title"] == "Mask Weight 2")
        editor.link(second, "reference", editor.node("MagicFaceApply")["id"], "references.reference1")
        restore(editor)
    editor.save_and_load()
    after = with_model(editor.prompt())
    save_screenshot(editor, f"portrait_unpacked_{front_end}_{'nodes2' if nodes_2 else 'canvas'}")
    assert saved_from(after) == saved_from(before)
    assert saved_picture(editor, editor.client.run(after)) == picture
    assert editor.complaints == []


def restore(editor: Editor) -> None:
    """Set the values of the test of MagicFace Portrait on the nodes that were inside it."""
    for node in editor.nodes():
        number = node["title"][-1:]
        if node["type"] in ("MagicFaceConceptMask", "MagicFaceReference"):
            editor.set(node["id"], caption=CAPTION, concept="hat" if number == "1" else "scarf")
        elif node["type"] == "MagicFaceMaskWeight":
            editor.set(node["id"], weight=1.5 if number == "1" else 2.0)
        elif node["type"] == "MagicFacePrompt":
            editor.set(node["id"], text=CAPTION)
        elif node["type"] == "KSampler":
            editor.set(node["id"], seed=5)


@pytest.mark.parametrize("front_end", ["pinned", "newest"])
def test_a_workflow_opens_as_an_app(open_editor: OpenEditor, save_screenshot: SaveScreenshot, front_end: str) -> None:
    editor = open_editor(front_end, False)
    page = editor.page
    editor.open_template("magicface_app")
    skip = page.get_by_role("button", name="Skip", exact=True)
    if front_end == "newest" and skip.count():
        skip.first.click()
        page.wait_for_timeout(800)
    for label in ("picture 1", "concept 1", "picture 2", "concept 2", "prompt", "seed"):
        page.get_by_text(label, exact=True).locator("visible=true").first.wait_for()
    words = page.get_by_role("textbox").locator("visible=true")
    assert {"hat", "scarf"} <= {words.nth(index).input_value() for index in range(words.count())}
    before = set(editor.client.get_json("/history"))
    page.get_by_role("button", name="Run", exact=True).last.click()
    assert saved_picture(editor, editor.wait_for_run(before))
    result = page.locator("img[src*='/view']").locator("visible=true").last
    result.wait_for()
    save_screenshot(editor, f"app_{front_end}")
    assert editor.complaints == []


@pytest.mark.parametrize("name", sorted(NOT_RUN))
def test_a_workflow_for_another_model_is_complete(open_editor: OpenEditor, name: str) -> None:
    """All its nodes are known, and the editor exports what is shipped for scripts; the model's file is not here."""
    editor = open_editor("pinned", False)
    editor.open_template(name)
    assert [node["type"] for node in editor.nodes() if not node["known"]] == []
    shipped = json.loads((API_WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    # The editor has the small model in place of the checkpoint that samples, not of those inside subgraphs.
    expected = {
        key: shipped[key] if ":" in key and node == LOADER else node for key, node in with_model(shipped).items()
    }
    assert without_titles(editor.prompt()) == without_titles(expected)
    assert editor.complaints == []
