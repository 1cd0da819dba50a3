"""The page of a trial in a real browser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from devtools.server import Server
from lab.trial import trial

from .conftest import SCREENSHOTS

SMALL = ("KSampler.steps=2", "MagicFaceReference.size=128", "MagicFaceConceptMask.size=128")


@pytest.fixture(scope="module")
def address(server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trial")
    request = trial.Request(
        checkpoint=None, server=server.url, concepts=None, prompt=None, size_px=128, changes=SMALL, quick=True,
        output=folder,
    )  # fmt: skip
    assert trial.main(request) == 0
    return (folder / trial.PAGE).as_uri()


@pytest.fixture
def open_page(chromium: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """`open_page(width, scheme)`: the page, which must not ask for anything else."""
    contexts = []

    def start(width_px: int, scheme: str = "light") -> Page:
        context = chromium.new_context(viewport={"width": width_px, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        contexts.append(context)
        page, asked = context.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        assert [url for url in asked if not url.startswith("data:")] == [address]
        return page

    yield start
    for context in contexts:
        context.close()


def test_every_picture_is_shown(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(1400)
    widths = page.evaluate("Array.from(document.images, (image) => image.complete ? image.naturalWidth : 0)")
    assert len(widths) > 20 and all(widths)
    folder = Path(os.environ.get(SCREENSHOTS) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / "trial.png", full_page=True)


@pytest.mark.parametrize("width_px", [400, 1400, 2600])
def test_only_sheets_and_tables_scroll_sideways(open_page: Callable[..., Page], width_px: int) -> None:
    assert open_page(width_px).evaluate("document.documentElement.scrollWidth") <= width_px


def test_light_and_dark_are_the_readers_choice(open_page: Callable[..., Page]) -> None:
    contrast = """() => {
        const drawn = document.createElement("canvas").getContext("2d");
        const light = (colour) => {
            drawn.fillStyle = colour;
            drawn.fillRect(0, 0, 1, 1);
            return drawn.getImageData(0, 0, 1, 1).data.slice(0, 3).reduce((sum, part) => sum + part) / 3;
        };
        const probe = document.createElement("div");
        probe.style.backgroundColor = "Canvas";
        document.body.append(probe);
        return [light(getComputedStyle(document.body).color), light(getComputedStyle(probe).backgroundColor)];
    }"""
    for scheme, dark in (("light", False), ("dark", True)):
        text, paper = open_page(1400, scheme).evaluate(contrast)
        assert abs(text - paper) > 180 and (text > paper) == dark
