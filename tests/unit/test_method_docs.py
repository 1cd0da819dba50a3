"""Cited sections of docs/method.md exist, and no page outside the repository is cited."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
METHOD = ROOT / "docs" / "method.md"
SECTIONS = (
    "notation",
    "reference-pass",
    "weighted-masks",
    "layout-stage",
    "segmentation",
    "regions",
    "blend-stage",
    "semantic-guidance",
    "schedule",
    "pieces",
    "places",
    "exact-savings",
    "refresh",
    "masks-from-words",
    "beyond-the-paper",
)
# Files of the repository, without caches and environments.
SOURCES = [
    file
    for suffix in ("py", "md", "toml", "json", "yml", "yaml", "in")
    for file in sorted(ROOT.rglob(f"*.{suffix}"))
    if not any(
        part.startswith(".") or part in ("trained", "demo_output", "trial_output")
        for part in file.relative_to(ROOT).parts
    )
    and file != Path(__file__).resolve()
]
# Pages outside the repository, which its readers cannot open and so must not be cited.
ELSEWHERE = re.compile(r"\b(?:METHOD|COMFYUI|STYLE|REVIEW)\.md\b|\bMETHOD\b(?!\s*[=.(,)\]])")
# Tests read recorded runs and reference pictures from beside the repository, and skip if there are none.
BESIDE = re.compile(r"\.\./shared|\bshared/(?!golden|concepts)")
PAGE = re.compile(r"\bdocs/([\w-]+\.(?:md|jpg|png))")
CODE_OF_PAGES = re.compile(r"`((?:attention|sampling|nodes|devtools|lab|tests|workflows)/[\w./-]+\.\w+)`")


def cited(file: Path) -> list[str]:
    """The anchors of docs/method.md that a file cites."""
    text = file.read_text(encoding="utf-8")
    return re.findall(r"(?<![\w/])(?:docs/)?method\.md#([\w-]+)", text)


def headings() -> list[str]:
    """Anchors of the method's sections, in order."""
    text = re.sub(r"^```.*?^```", "", METHOD.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, flags=re.MULTILINE)]


def test_the_page_has_the_sections_that_may_be_cited() -> None:
    assert tuple(headings()) == SECTIONS


def test_equations_are_numbered_in_order_and_cited_ones_exist() -> None:
    text = METHOD.read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"\\tag\{(\d+)\}", text)]
    assert numbers == list(range(1, len(numbers) + 1))
    for file in SOURCES:
        for number in re.findall(r"\beq\. (\d+)", file.read_text(encoding="utf-8")):
            assert int(number) in numbers, f"{file.relative_to(ROOT)}: eq. {number}"


def test_each_section_covers_paper_program_and_product() -> None:
    sections = re.split(r"^## .+$", METHOD.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for name, section in list(zip(SECTIONS, sections, strict=True))[1:-1]:
        for side in ("**Paper:**", "**Authors' program:**", "**This pack:**"):
            assert side in section, f"{name}: {side}"


def test_cited_sections_exist() -> None:
    for file in SOURCES:
        for anchor in cited(file):
            assert anchor in SECTIONS, f"{file.relative_to(ROOT)}: {anchor}"


def test_no_page_outside_the_repository_is_cited() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in SOURCES
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if ELSEWHERE.search(line) or BESIDE.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("pattern", [PAGE, CODE_OF_PAGES], ids=["pages", "code"])
def test_named_files_exist(pattern: re.Pattern[str]) -> None:
    missing = []
    for file in SOURCES:
        if pattern is CODE_OF_PAGES and file.suffix != ".md":
            continue
        for name in pattern.findall(file.read_text(encoding="utf-8")):
            path = ROOT / ("docs" if pattern is PAGE else ".") / name
            if not path.exists() and not (ROOT / "web" / "docs" / name).exists():
                missing.append(f"{file.relative_to(ROOT)}: {name}")
    assert not missing, "\n".join(missing)


def test_the_checks_find_mistakes() -> None:
    assert ELSEWHERE.search("(METHOD 3.2)") and ELSEWHERE.search("see METHOD.md")
    assert not ELSEWHERE.search('METHOD = ROOT / "docs"') and not ELSEWHERE.search("the method")
    assert BESIDE.search("in ../shared") and not BESIDE.search("shared/golden")
