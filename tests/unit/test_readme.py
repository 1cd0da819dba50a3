"""The README is short, its commands exist, and its links resolve; links on all other pages are checked too."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
MAX_WORDS = 900
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def words(text: str) -> int:
    """The number of words on a page, code and tables included, punctuation not."""
    return sum(bool(re.search(r"\w", part)) for part in text.split())


def relative_links(text: str) -> list[str]:
    """Targets of a page's links and pictures that are not URLs; code is left out."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """Anchors that GitHub makes from a page's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def commands() -> set[str]:
    """The commands that dev.py offers."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "dev.py"), "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    listed = re.search(r"\{([\w,]+)\}", done.stdout)
    assert listed is not None, done.stdout
    return set(listed[1].split(","))


def test_the_readme_is_short() -> None:
    assert words(README.read_text(encoding="utf-8")) <= MAX_WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    named = set(re.findall(r"python dev\.py ([a-z]\w*)", page.read_text(encoding="utf-8")))
    assert named <= commands()
    assert page != README or {"demo", "test"} <= named


def test_every_command_is_documented() -> None:
    """docs/development.md has a row for each."""
    rows = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "development.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == commands()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in relative_links(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


def test_the_checks_find_mistakes() -> None:
    assert words("a | b-c `d e` - 1.5\n---") == 5
    assert relative_links("[a](b.md#c) ![x](y.jpg) [z](https://z)\n```\n[no](no.md)\n```\n") == ["b.md#c", "y.jpg"]
    assert anchors("## Against the targets\n# dev.py\n") == {"against-the-targets", "devpy"}
