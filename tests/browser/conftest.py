"""A real server and a real browser for all tests in this folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devtools import browser, environment, front_end
from devtools.install import Install
from devtools.server import Server

pytest.importorskip("playwright", reason="no playwright; dev.py test installs it")

from playwright.sync_api import Browser, sync_playwright

from .editor import Editor

SIZE_PX = {"width": 1920, "height": 1200}
NODES_2 = "Comfy.VueNodes.Enabled"
SCREENSHOTS = "MAGICFACE_SCREENSHOTS"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    core = os.environ.get("MAGICFACE_TEST_COMFYUI") or environment.comfyui("newest")
    with Server(Install(Path(core), Path(sys.executable)), tmp_path_factory.mktemp("base")) as running:
        yield running


@pytest.fixture(scope="session")
def newest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same core with the newest front end."""
    static = front_end.newest()
    if static is None:
        pytest.skip("the newest front end cannot be downloaded")
    core = os.environ.get("MAGICFACE_TEST_COMFYUI") or environment.comfyui("newest")
    install, flags = Install(Path(core), Path(sys.executable)), ("--front-end-root", str(static))
    with Server(install, tmp_path_factory.mktemp("newest"), flags=flags) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if os.environ.get(browser.CHOICE) == "none":
        pytest.skip(f"{browser.CHOICE} is none")
    path = browser.executable()
    # Chromium's sandbox does not work for root in a container; and the graph is drawn without a GPU.
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def editor(server: Server, chromium: Browser) -> Iterator[Editor]:
    context = chromium.new_context(viewport=SIZE_PX)  # type: ignore[arg-type]
    context.set_default_timeout(60_000)
    yield Editor(context.new_page(), server.client).open()
    context.close()


@pytest.fixture(scope="module")
def one_editor(server: Server, chromium: Browser) -> Iterator[Editor]:
    """One page for several tests that each open a workflow of their own: opening the editor takes several seconds."""
    context = chromium.new_context(viewport=SIZE_PX)  # type: ignore[arg-type]
    context.set_default_timeout(60_000)
    yield Editor(context.new_page(), server.client).open()
    context.close()


@pytest.fixture
def open_editor(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[Callable[[str, bool], Editor]]:
    """`open_editor(front_end, nodes_2)`: the "pinned" or the "newest" front end, in one of its two renderings."""
    opened = []

    def start(front_end: str, nodes_2: bool) -> Editor:
        server: Server = request.getfixturevalue("server" if front_end == "pinned" else "newest_server")
        server.client.post("/settings", {NODES_2: nodes_2})
        context = chromium.new_context(viewport=SIZE_PX)  # type: ignore[arg-type]
        context.set_default_timeout(60_000)
        opened.append((server, context))
        return Editor(context.new_page(), server.client).open()

    yield start
    for server, context in opened:
        context.close()
        server.client.post("/settings", {NODES_2: False})


@pytest.fixture
def save_screenshot(tmp_path: Path) -> Callable[[Editor, str], None]:
    """`save_screenshot(editor, name)`: save a screenshot in the folder that MAGICFACE_SCREENSHOTS names."""
    folder = Path(os.environ.get(SCREENSHOTS) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def shot(editor: Editor, name: str) -> None:
        editor.page.screenshot(path=folder / f"{name}.png")

    return shot
