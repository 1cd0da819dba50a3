"""The nodes' texts in the editor's languages."""

from __future__ import annotations

import json
import re

import pytest

from devtools import locales

LANGUAGES = sorted(folder.name for folder in locales.LOCALES.iterdir())


def texts(language):
    return json.loads((locales.LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def leaves(tree, path=()):
    """Every text with its path."""
    if isinstance(tree, str):
        return {path: tree}
    return {found: text for key, branch in tree.items() for found, text in leaves(branch, (*path, key)).items()}


def test_the_english_texts_are_those_of_the_nodes():
    """`dev.py locales` writes that file."""
    assert texts("en") == locales.english()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_text(language):
    found, english = leaves(texts(language)), leaves(texts("en"))
    assert found.keys() == english.keys()
    assert all(text.strip() for text in found.values())


def test_chinese_texts_are_chinese():
    for path, text in leaves(texts("zh")).items():
        if path[-1] in ("tooltip", "description"):
            assert re.search(r"[\u4e00-\u9fff]", text), path


def test_every_input_and_output_has_a_tooltip():
    for path, text in leaves(locales.english()).items():
        assert text.endswith((".", "'.", ")")) or path[-1] in ("name", "display_name"), path
