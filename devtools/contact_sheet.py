"""A contact sheet: one picture of a run's references and, below them, the pictures that it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HEIGHT_PX, GAP_PX, LINE_PX = 320, 16, 28
_PAPER, _INK = "white", "black"
_DIMMED = 0.25  # opacity of a reference outside its mask


@dataclass(frozen=True, eq=False)
class Entry:
    """A picture on the sheet and the text below it."""

    picture: Image.Image
    text: str


def dim(picture: Image.Image, mask: Image.Image | None) -> Image.Image:
    """A reference that is faded to the sheet's colour outside its mask."""
    picture = picture.convert("RGB")
    if mask is None:
        return picture
    faded = Image.blend(Image.new("RGB", picture.size, _PAPER), picture, _DIMMED)
    return Image.composite(picture, faded, mask.convert("L").resize(picture.size))


def contact_sheet(rows: Sequence[Sequence[Entry]]) -> Image.Image:
    """Rows of pictures of equal height, each row centred.

    Args:
        rows: the entries, from top to bottom and from left to right; empty rows are skipped.
    """
    font = ImageFont.load_default(size=18)
    strips = [_strip(row, font) for row in rows if row]
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips)), _PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, ((width - strip.width) // 2, top))
        top += strip.height
    return sheet


def in_rows(entries: Sequence[Entry], most_px: int) -> list[list[Entry]]:
    """Entries in rows of about equal width, as few as keep below a width in pixels where one entry does."""
    widths = [_width(entry.picture) + GAP_PX for entry in entries]
    count = max(1, -(-sum(widths) // most_px))
    rows: list[list[Entry]] = [[]]
    filled = 0.0
    for entry, width in zip(entries, widths, strict=True):
        if len(rows) < count and filled >= sum(widths) * len(rows) / count:
            rows.append([])
        rows[-1].append(entry)
        filled += width
    return rows


def save_small(picture: Image.Image, file: Path, max_side_px: int) -> None:
    """Save a picture as JPEG, scaled down if a side is longer than the given number of pixels."""
    picture.thumbnail((max_side_px, max_side_px))
    picture.convert("RGB").save(file, quality=85)


def _strip(row: Sequence[Entry], font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> Image.Image:
    scaled = [entry.picture.resize((_width(entry.picture), HEIGHT_PX), Image.Resampling.LANCZOS) for entry in row]
    width = sum(picture.width + GAP_PX for picture in scaled) + GAP_PX
    strip = Image.new("RGB", (width, HEIGHT_PX + LINE_PX + 2 * GAP_PX), _PAPER)
    draw, left = ImageDraw.Draw(strip), GAP_PX
    for entry, picture in zip(row, scaled, strict=True):
        strip.paste(picture.convert("RGB"), (left, GAP_PX))
        middle = left + picture.width / 2
        draw.text((middle, GAP_PX + HEIGHT_PX + 6), entry.text, fill=_INK, font=font, anchor="ma")
        left += picture.width + GAP_PX
    return strip


def _width(picture: Image.Image) -> int:
    return round(picture.width * HEIGHT_PX / picture.height)
