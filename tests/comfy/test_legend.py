"""The legend under a picture of regions: every share can be read, and no name is a row of boxes."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw, ImageFont

LONG = "a small embroidered hat of dark blue felt with a long white feather"
WIDTHS = (64, 128, 320, 512, 1024)


@pytest.fixture
def drawing(pack):
    """The modules `regions` and `fonts` of the drawing."""
    return [importlib.import_module(f"{pack.__name__}.nodes.drawing.{name}") for name in ("regions", "fonts")]


@pytest.fixture
def system(drawing, monkeypatch, tmp_path):
    """A system whose only fonts are those in a folder, which is empty at first."""
    fonts = drawing[1]
    monkeypatch.setattr(fonts, "_folders", lambda: [tmp_path, tmp_path / "no such folder"])
    fonts._system_fonts.cache_clear()
    fonts._font_with.cache_clear()
    yield tmp_path
    fonts._system_fonts.cache_clear()
    fonts._font_with.cache_clear()


def make_font(path: Path, letters: str) -> None:
    """A font whose letters are triangles of different widths."""
    names = [".notdef", *(f"letter{number}" for number in range(len(letters)))]
    glyphs = {}
    for number, name in enumerate(names):
        pen = TTGlyphPen(None)
        corners = [(50, 0), (150 + 40 * number, 700), (450, 0)] if number else [(0, 0), (0, 700), (500, 700), (500, 0)]
        pen.moveTo(corners[0])
        for corner in corners[1:]:
            pen.lineTo(corner)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Triangles", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def plain_legend(regions, width, names, shares):
    """Swatch, name and share in pillow's own font, in as many lines as it takes, or None where a label does not fit."""
    size = regions._font_size(width)
    font = ImageFont.load_default(size)
    corners, x, y = [], size // 2, size // 2
    for name, share in zip(names, shares, strict=True):
        room = int(size * 1.5 + font.getlength(f"{name} 100%") + size)
        if x > size // 2 and x + room > width:
            x, y = size // 2, y + size * 3 // 2
        if x + size * 3 // 2 + font.getlength(f"{name} {share:.0%}") > width:
            return None
        corners.append((x, y))
        x += room
    image = Image.new("RGB", (width, y + size * 3 // 2), (24, 24, 28))
    draw = ImageDraw.Draw(image)
    for (left, top), name, share, colour in zip(corners, names, shares, regions.COLOURS, strict=False):
        draw.rectangle((left, top, left + size, top + size), fill=colour)
        label = f"{name} {share:.0%}"
        draw.text((left + size * 3 // 2, top + size // 2), label, (235, 235, 235), font=font, anchor="lm")
    return image


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("names", [["hat"], ["hat", "scarf (off)"], ["red hat", "cap", "boy", "scarf"], [LONG, "hat"]])
def test_legends_that_fit_are_plain(drawing, width, names):
    regions, _ = drawing
    shares = [0.06, 0.17, 0.0, 0.4][: len(names)]
    expected = plain_legend(regions, width, names, shares)
    if expected is not None:
        found = regions._legend(width, names, shares)
        assert torch.equal(found, regions.from_pillow(expected))


def test_some_of_these_fit_and_some_do_not(drawing):
    found = [plain_legend(drawing[0], width, [LONG, "hat"], [0.06, 0.17]) for width in WIDTHS]
    assert [legend is not None for legend in found] == [False, False, False, False, True]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_phrase_keeps_its_share(drawing, width, monkeypatch):
    """Its label ends with the share, within the picture; the layout does not depend on shares."""
    regions, _ = drawing
    drawn = []
    monkeypatch.setattr(
        regions.ImageDraw.ImageDraw, "text", lambda _, at, text, **how: drawn.append((at, text, how["font"]))
    )
    heights = {len(regions._legend(width, [LONG, "hat"], [share, 0.5])) for share in (0.0, 0.06, 1.0)}
    assert len(heights) == 1
    for (left, _), text, font in drawn:
        assert text.endswith("%") and left + font.getlength(text) <= width
    first = drawn[0][1]
    assert first == f"{LONG} 0%" or ("…" in first and first.startswith("a") and first.endswith(" 0%"))


def test_names_in_another_script_use_the_systems_font(drawing, system):
    regions, fonts = drawing
    (system / "broken.ttf").write_bytes(b"no font")
    (system / "deeper").mkdir()
    make_font(system / "deeper" / "triangles.ttf", "帽子 0123456789%")
    assert fonts.drawable_names(["帽子", "围巾", "hat"]) == ["帽子", "concept 2", "hat"]
    font = fonts.font_for("帽子", 16)
    assert font.getname() == ("Triangles", "Regular") and font.size == 16
    assert fonts.font_for("hat", 16).getname() != font.getname()
    chinese, number = (regions._legend(320, names, [0.06, 0.17]) for names in (["帽子", "hat"], ["concept 1", "hat"]))
    assert not torch.equal(chinese, number)


def test_without_a_font_names_lose_accents_or_become_numbers(drawing, system):
    regions, fonts = drawing
    names = ["hat", "hät", "帽子", "围巾 (off)", "🎩"]
    readable = ["hat", "hat", "concept 3", "concept 4 (off)", "concept 5"]
    assert fonts.drawable_names(names) == readable
    assert torch.equal(regions._legend(512, names, [0.1] * 5), regions._legend(512, readable, [0.1] * 5))


def test_attention_views_labels_keep_their_shares(drawing, system):
    fonts = drawing[1]
    font = fonts.font_for("hat", 15)
    label = fonts.shorten(f"{LONG} 35%", 320, font)
    assert font.getlength(label) <= 320 and label.startswith("a small") and label.endswith("35%")
    assert fonts.shorten("hat 35%", 320, font) == "hat 35%"
    assert fonts.shorten("hat", 0, font) == "…"
