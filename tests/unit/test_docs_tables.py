"""The tables in docs/ are made from the figures in the repository."""

from __future__ import annotations

import re

import pytest

from lab import docs_tables
from lab.figures import read

KNOWN = docs_tables.written_tables()


@pytest.mark.parametrize("page", docs_tables.PAGES)
def test_the_tables_of_a_page_are_up_to_date(page: str) -> None:
    text = (docs_tables.DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert docs_tables.render(text, KNOWN) == text, "out of date; run python dev.py docs"


def test_every_table_is_on_a_page() -> None:
    pages = [(docs_tables.DOCS / f"{page}.md").read_text(encoding="utf-8") for page in docs_tables.PAGES]
    assert sorted(name for text in pages for name in re.findall("<!-- table: (.*) -->", text)) == sorted(KNOWN)


def test_a_changed_figure_makes_a_table_out_of_date(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = read(docs_tables.FIGURES / "evaluation.json")
    changed["table"]["both"]["fidelity"][0] += 0.01
    text = (docs_tables.DOCS / "evaluation.md").read_text(encoding="utf-8")
    known = {**KNOWN, "main-rows": docs_tables.main_table(changed)}
    assert docs_tables.render(text, known) != text
