"""The graph editor, used through a real browser as a person would."""

from __future__ import annotations

import io
import time
from typing import Any

from PIL import Image
from playwright.sync_api import ConsoleMessage, Page

from devtools.client import Client

READY_S, DONE_S = 180, 300
# The parts of the editor's nodes that tests need.
_NODES = """() => window.app.graph.nodes.map((node) => ({
    id: String(node.id),
    type: node.type,
    title: node.title,
    known: node.type in LiteGraph.registered_node_types,
    faulty: !!node.has_errors || (node.inputs ?? []).some((input) => input.hasErrors),
    pictures: (node.imgs ?? []).map((img) => [img.naturalWidth, img.naturalHeight]),
    widgets: Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.value])),
    inputs: (node.inputs ?? []).map((input) => [input.name, input.link != null]),
}))"""
# The position of a node's slot on the page.
_SLOT = """([id, output, name]) => {
    const node = window.app.graph.getNodeById(id);
    const slots = output ? node.outputs : node.inputs;
    const index = slots.findIndex((slot) => slot.name === name || slot.label === name);
    if (index < 0) throw new Error(`no slot ${name}: ${slots.map((slot) => slot.name)}`);
    const [x, y] = node.getConnectionPos(!output, index);
    const [left, top] = window.app.canvas.ds.convertOffsetToCanvas([x, y]);
    const box = window.app.canvas.canvas.getBoundingClientRect();
    return [box.left + left, box.top + top];
}"""
_LINK = """([source, output, target, name]) => {
    const [from, to] = [source, target].map((id) => window.app.graph.getNodeById(id));
    const find = (slots, name) => slots.findIndex((slot) => slot.name === name || slot.label === name);
    if (!from.connect(find(from.outputs, output), to, find(to.inputs, name))) throw new Error(`not linked: ${name}`);
}"""
_MOVE = """([id, x, y]) => {
    const node = window.app.graph.getNodeById(id);
    node.pos = [x, y];
    window.app.graph.setDirtyCanvas(true, true);
}"""
_SET = """([id, values]) => {
    const node = window.app.graph.getNodeById(id);
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find((one) => one.name === name);
        if (!widget) throw new Error(`no widget ${name} on ${node.type}`);
        widget.value = value;
        widget.callback?.(value);
    }
}"""

_FRAMES = """async () => {
    for (let count = 0; count < 5; count++) await new Promise(requestAnimationFrame);
}"""


class Editor:
    """A page with the editor.

    Args:
        page: an empty page.
        client: the server.
    """

    def __init__(self, page: Page, client: Client) -> None:
        self.page, self.client = page, client
        self.complaints: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _console(self, message: ConsoleMessage) -> None:
        """Collect errors of the pack; ComfyUI's own errors are ignored."""
        where = str(message.location.get("url", ""))
        if message.type == "error" and "magicface" in (message.text + where).lower():
            self.complaints.append(f"{message.text} ({where})")

    def open(self) -> Editor:
        """Load the editor, and close the dialogs that it shows at first."""
        self.page.goto(self.client.url)
        self.page.wait_for_function("window.app?.graph && window.app.extensionManager", timeout=READY_S * 1000)
        self.page.wait_for_function("'MagicFaceApply' in LiteGraph.registered_node_types", timeout=READY_S * 1000)
        self.settle(3000)
        self.page.keyboard.press("Escape")
        # Draw small text too, so that a screenshot of a whole graph can be read.
        self.page.evaluate("window.app.extensionManager.setting.set('LiteGraph.Canvas.MinFontSizeForLOD', 0)")
        return self

    def settle(self, ms: int) -> None:
        """Wait some milliseconds, and until the page has drawn some frames, which takes longer on a busy machine."""
        self.page.wait_for_timeout(ms)
        self.page.evaluate(_FRAMES)

    def command(self, name: str) -> None:
        """Run one of the editor's commands, as its menus do."""
        self.page.evaluate("(name) => window.app.extensionManager.command.execute(name)", name)

    def open_template(self, name: str) -> None:
        """Choose a shipped workflow in the template browser."""
        self.command("Comfy.BrowseTemplates")
        self.page.get_by_text("magicface", exact=True).first.click()
        self.page.get_by_text(name, exact=True).first.click()
        self.page.wait_for_function(
            "window.app.graph.nodes.some((node) => node.subgraph || node.type === 'MagicFaceApply')",
            timeout=READY_S * 1000,
        )
        self.settle(1500)

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes on the canvas."""
        found: list[dict[str, Any]] = self.page.evaluate(_NODES)
        return found

    def node(self, kind: str) -> dict[str, Any]:
        """The only node of a type."""
        (found,) = [node for node in self.nodes() if node["type"] == kind]
        return found

    def queue(self) -> dict[str, Any]:
        """Press the keys that queue the graph, wait for the end, and return the history entry."""
        before = set(self.client.get_json("/history"))
        self.page.keyboard.press("Control+Enter")
        return self.wait_for_run(before)

    def wait_for_run(self, before: set[str]) -> dict[str, Any]:
        """Wait until a run has ended that is not among those given, and return its history entry."""
        end = time.monotonic() + DONE_S
        while time.monotonic() < end:
            new = {key: entry for key, entry in self.client.get_json("/history").items() if key not in before}
            if new:
                self.settle(1500)
                (entry,) = new.values()
                return dict(entry)
            self.settle(300)
        raise AssertionError(f"the graph was not done within {DONE_S} s")

    def prompt(self) -> dict[str, Any]:
        """The graph in the format that is queued."""
        made: dict[str, Any] = self.page.evaluate("() => window.app.graphToPrompt().then((made) => made.output)")
        return made

    def save_and_load(self) -> None:
        """Save the graph as a file would have it, and load it again."""
        self.page.evaluate("() => window.app.loadGraphData(JSON.parse(JSON.stringify(window.app.graph.serialize())))")
        self.settle(1500)

    def select(self, node: str) -> None:
        """Click a node."""
        self.page.evaluate("(id) => window.app.canvas.selectNode(window.app.graph.getNodeById(id))", node)
        self.settle(500)

    def add(self, name: str, x: int, y: int) -> str:
        """Add a node by the canvas's search, and put it at a position; returns its id."""
        known = {node["id"] for node in self.nodes()}
        self.page.mouse.move(900, 560)
        self.command("Workspace.SearchBox.Toggle")
        search = self.page.get_by_role("combobox").last
        search.wait_for()
        search.fill(name)
        self.settle(700)
        self.page.keyboard.press("Enter")
        self.page.wait_for_function("(count) => window.app.graph.nodes.length > count", arg=len(known))
        self.settle(400)
        self.page.mouse.click(900, 600)  # a new node follows the pointer until a click
        self.settle(400)
        (new,) = [node["id"] for node in self.nodes() if node["id"] not in known]
        self.page.evaluate(_MOVE, [new, x, y])
        return str(new)

    def connect(self, source: str, output: str, target: str, name: str) -> None:
        """Drag a link from one slot to another."""
        self.settle(100)
        start, end = (self.page.evaluate(_SLOT, [node, is_output, slot]) for node, is_output, slot in (
            (source, True, output), (target, False, name),
        ))  # fmt: skip
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=4)
        self.page.mouse.move(*end, steps=4)
        self.page.mouse.up()
        self.settle(150)

    def link(self, source: str, output: str, target: str, name: str) -> None:
        """Connect two slots as the editor does after a drag, wherever a rendering draws them."""
        self.page.evaluate(_LINK, [source, output, target, name])
        self.settle(150)

    def set(self, node: str, **values: Any) -> None:
        """Set values of widgets."""
        self.page.evaluate(_SET, [node, values])

    def unpack(self, node: str) -> None:
        """Turn a subgraph node back into the nodes inside it."""
        self.select(node)
        self.command("Comfy.Graph.UnpackSubgraph")
        self.settle(1500)

    def mute(self, node: str) -> None:
        """Mute a node, which leaves it and its links out of the prompt."""
        self.page.evaluate("(id) => { window.app.graph.getNodeById(id).mode = 2; }", node)

    def zoom_to_fit(self) -> None:
        """Show the whole graph, not only the selected nodes."""
        self.page.evaluate("() => window.app.canvas.deselectAll()")
        self.command("Comfy.Canvas.FitView")
        self.settle(1200)


def pixels(client: Client, shown: dict[str, str]) -> bytes:
    """The decoded pixels of a picture that a node shows."""
    with Image.open(io.BytesIO(client.view(shown))) as image:
        return image.convert("RGB").tobytes()
