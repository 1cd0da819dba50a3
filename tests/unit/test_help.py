"""The help pages: each node has one in each language, it describes each input, and its pictures exist."""

from __future__ import annotations

import json
import re

import pytest

from devtools.pins import ROOT

DOCS = ROOT / "web" / "docs"
TEXTS = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
PAGES = {node: {"en": DOCS / f"{node}.md", "zh": DOCS / node / "zh.md"} for node in TEXTS}


@pytest.mark.parametrize("node", sorted(PAGES))
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_page_describes_every_input(node: str, language: str) -> None:
    text = PAGES[node][language].read_text(encoding="utf-8")
    first_cells = " ".join(re.findall(r"^\| ([^|]+) \|", text, flags=re.MULTILINE))
    for name in TEXTS[node]["inputs"]:
        assert re.search(rf"\b{name}\b", first_cells), name


@pytest.mark.parametrize("node", sorted(PAGES))
def test_the_pictures_of_a_page_exist(node: str) -> None:
    for language, page in PAGES[node].items():
        shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert shown, f"{node}, {language}: no picture"
        for picture in shown:
            assert (DOCS / picture).is_file(), picture
