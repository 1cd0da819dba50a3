"""What a person sees: shipped workflows opened and queued, a graph built by hand, and a mistake explained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser

from devtools.api_format import WORKFLOWS
from devtools.model import INPUTS, LOADER
from devtools.server import Server
from devtools.workflows import NOT_RUN

from .editor import Editor, pixels

ELSEWHERE = ("magicface_app", "magicface_words", *NOT_RUN)  # see test_blueprints.py
NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json") if file.stem not in ELSEWHERE)
PREVIEWS = ("MagicFaceSegmentationPreview", "MagicFaceAttentionView", "MagicFaceCorrespondence")
CAPTION = "a person with a face, hair and a shirt, wearing a hat and a scarf"
PROMPT = "a person with a face, hair and a shirt wearing a hat and a scarf"
SaveScreenshot = Callable[[Editor, str], None]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_workflow_runs_as_it_is_opened(
    one_editor: Editor, save_screenshot: SaveScreenshot, name: str
) -> None:
    editor = one_editor
    editor.command("Comfy.NewBlankWorkflow")
    editor.settle(500)
    editor.open_template(name)
    nodes = editor.nodes()
    assert [node["type"] for node in nodes if not node["known"]] == []
    assert [node["type"] for node in nodes if node["faulty"]] == []
    assert any(node["type"] == "MarkdownNote" and "What to change" in str(node["widgets"]) for node in nodes)
    entry = editor.queue()
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    shown = {node["type"]: node["pictures"] for node in editor.nodes()}
    for kind in PREVIEWS:
        assert kind not in shown or shown[kind], f"{kind} shows nothing"
    editor.zoom_to_fit()
    save_screenshot(editor, name)
    assert editor.complaints == []


def test_the_two_concept_graph_built_by_hand_makes_the_same_picture(
    editor: Editor, save_screenshot: SaveScreenshot
) -> None:
    editor.open_template("magicface_two_concepts")
    shipped = editor.queue()
    editor.command("Comfy.NewBlankWorkflow")
    editor.settle(1500)
    built = build(editor)
    editor.zoom_to_fit()
    save_screenshot(editor, "built_by_hand")
    assert [name for name, linked in editor.node("MagicFaceApply")["inputs"] if linked] == [
        "model", "references.reference0", "references.reference1",
    ]  # fmt: skip
    made_of = editor.prompt()
    editor.save_and_load()
    assert editor.prompt() == made_of
    entry = editor.queue()
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    saved = [picture for output in shipped["outputs"].values() for picture in output["images"] if is_saved(picture)]
    (made,) = entry["outputs"][built["save"]]["images"]
    assert pixels(editor.client, made) == pixels(editor.client, saved[0])
    assert editor.complaints == []


def is_saved(picture: dict[str, str]) -> bool:
    return picture["type"] == "output"


def build(editor: Editor) -> dict[str, str]:
    """Build the graph of two concepts on an empty canvas; returns the ids of its nodes by their purpose."""
    ids: dict[str, str] = {}

    def add(what: str, name: str, x: int, y: int, **values: Any) -> None:
        ids[what] = editor.add(name, x, y)
        if values:
            editor.set(ids[what], **values)

    add("model", "MagicFace tiny model", 0, 0, **LOADER["inputs"])
    for row, (concept, weight) in enumerate((("hat", 1.5), ("scarf", 2.0))):
        top = 250 + 400 * row
        file = f"magicface_portrait_{concept}"
        add(f"{concept} picture", "Load Image", 0, top, image=f"{file}.png")
        add(f"{concept} mask", "Load Image (as Mask)", 320, top, image=f"{file}_mask.png", channel="red")
        size = INPUTS["MagicFaceReference"]["size"]
        add(f"{concept} reference", "MagicFace Reference", 640, top, caption=CAPTION, concept=concept, size=size)
        add(f"{concept} weight", "MagicFace Mask Weight", 1100, top, weight=weight)
    add("prompt", "MagicFace Prompt", 1500, 0, text=PROMPT)
    add("negative", "CLIP Text Encode (Prompt)", 1500, 250, text="")
    add("latent", "Empty Latent Image", 1500, 480, **INPUTS["EmptyLatentImage"], batch_size=1)
    add("apply", "MagicFace Apply", 1500, 660)
    add("sampler", "KSampler", 1960, 0, **INPUTS["KSampler"], seed=5, denoise=1.0)
    add("decode", "VAE Decode", 1960, 400)
    add("save", "Save Image", 2340, 0, filename_prefix="by_hand")
    editor.zoom_to_fit()

    def link(source: str, output: str, target: str, name: str) -> None:
        editor.connect(ids[source], output, ids[target], name)

    for number, concept in enumerate(("hat", "scarf")):
        reference = f"{concept} reference"
        link(f"{concept} picture", "IMAGE", reference, "image")
        link(f"{concept} mask", "MASK", reference, "mask")
        link("model", "VAE", reference, "vae")
        link("model", "CLIP", reference, "clip")
        link(reference, "reference", f"{concept} weight", "reference")
        # The second socket appears when the first one is connected.
        link(f"{concept} weight", "reference", "apply", f"references.reference{number}")
    for target in ("prompt", "negative"):
        link("model", "CLIP", target, "clip")
    link("model", "MODEL", "apply", "model")
    link("apply", "MODEL", "sampler", "model")
    link("prompt", "CONDITIONING", "sampler", "positive")
    link("negative", "CONDITIONING", "sampler", "negative")
    link("latent", "LATENT", "sampler", "latent_image")
    link("sampler", "LATENT", "decode", "samples")
    link("model", "VAE", "decode", "vae")
    link("decode", "IMAGE", "save", "images")
    return ids


def test_a_mistake_is_explained_on_its_node(editor: Editor, save_screenshot: SaveScreenshot) -> None:
    editor.open_template("magicface_one_concept")
    reference = editor.node("MagicFaceReference")["id"]
    editor.set(reference, caption="")
    entry = editor.queue()
    assert entry["status"]["status_str"] == "error"
    save_screenshot(editor, "mistake")
    blamed = editor.page.evaluate("() => String(window.app.lastExecutionError?.node_id)")
    assert blamed == reference
    editor.page.get_by_text("View details").click()
    editor.page.get_by_text("MagicFaceReference: caption: is empty; say what the picture shows").first.wait_for()
    save_screenshot(editor, "mistake_explained")


def test_any_one_connected_reference_suffices(editor: Editor) -> None:
    """The nodes of the first concept are muted; then those of the second one too."""
    editor.open_template("magicface_two_concepts")
    (hat,) = [id for id, node in editor.prompt().items() if node["inputs"].get("concept") == "hat"]
    others = {id: node for id, node in editor.prompt().items() if node["class_type"].startswith("MagicFace")}
    weights = {node["inputs"]["reference"][0]: id for id, node in others.items() if "reference" in node["inputs"]}
    (scarf,) = set(weights) - {hat}
    for node in (hat, weights[hat]):
        editor.mute(node)
    assert editor.queue()["status"]["status_str"] == "success"
    for node in (scarf, weights[scarf]):
        editor.mute(node)
    entry = editor.queue()
    assert "MagicFaceApply: references: 0 connected; connect 1 to 10" in str(entry["status"]["messages"])


def test_cancel_ends_a_run_and_does_not_change_the_next_one(editor: Editor) -> None:
    editor.open_template("magicface_one_concept")
    first = editor.queue()
    sampler = editor.node("KSampler")["id"]
    editor.set(sampler, steps=500)
    before = set(editor.client.get_json("/history"))
    editor.page.keyboard.press("Control+Enter")
    editor.settle(3000)
    assert len(editor.client.get_json("/queue")["queue_running"]) == 1
    editor.command("Comfy.Interrupt")
    editor.settle(3000)
    (cancelled,) = (entry for key, entry in editor.client.get_json("/history").items() if key not in before)
    assert "execution_interrupted" in [kind for kind, _ in cancelled["status"]["messages"]]
    editor.set(sampler, steps=INPUTS["KSampler"]["steps"])
    again = editor.queue()
    pictures = [next(p for out in e["outputs"].values() for p in out["images"] if is_saved(p)) for e in (first, again)]
    assert pixels(editor.client, pictures[0]) == pixels(editor.client, pictures[1])
    assert editor.complaints == []


def test_help_is_shown_beside_the_graph(editor: Editor, save_screenshot: SaveScreenshot) -> None:
    editor.open_template("magicface_one_concept")
    editor.select(editor.node("MagicFaceApply")["id"])
    editor.page.locator("[data-testid='info-button']").first.click()
    picture = editor.page.locator("img[src*='docs/images/']").first
    picture.wait_for()
    assert picture.evaluate("(image) => image.complete && image.naturalWidth > 0")
    assert editor.page.get_by_text("2 + N UNet rows").first.is_visible()
    save_screenshot(editor, "help")


def test_a_node_is_found_by_its_purpose(editor: Editor) -> None:
    editor.command("Comfy.NewBlankWorkflow")
    editor.settle(1000)
    editor.add("heat map", 0, 0)
    assert [node["type"] for node in editor.nodes()] == ["MagicFaceAttentionView"]


def test_nodes_have_chinese_names(server: Server, chromium: Browser) -> None:
    context = chromium.new_context(locale="zh-CN")
    editor = Editor(context.new_page(), server.client).open()
    editor.page.evaluate("() => window.app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    try:
        editor.page.reload()
        editor.open()
        editor.open_template("magicface_one_concept")
        title = editor.page.evaluate("() => LiteGraph.registered_node_types.MagicFaceApply.title")
        assert title == "MagicFace 应用"
        assert editor.complaints == []
    finally:
        editor.page.evaluate("() => window.app.extensionManager.setting.set('Comfy.Locale', 'en')")
        editor.settle(500)
        context.close()
