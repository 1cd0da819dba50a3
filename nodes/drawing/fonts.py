"""Fonts: pillow's own where it has the letters, else one of the system's that has them."""

import os
import sys
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# The first whose name begins with one of these is tried first: fonts with Chinese, Japanese and Korean, then others.
_PREFERRED = (
    *("notosanscjk", "notosanssc", "sourcehansans", "wqy-", "droidsansfallback", "pingfang", "hiraginosansgb"),
    *("stheiti", "arialunicode", "msyh", "simhei", "simsun", "yugoth", "meiryo", "msgothic", "malgun", "applesdgothic"),
    *("notosans", "dejavusans", "segoeui", "arial"),
)
_STYLES = ("bold", "italic", "oblique", "black", "light", "thin", "mono", "serif")
_MAX_TRIED = 300
_MISSING = "\uffff"  # no character, so every font draws its sign for a missing one
_TRIAL_PX = 20


def font_for(text: str, size_px: int) -> Font:
    """A font that has all letters of a text, if there is one; pillow's own has Latin ones without accents."""
    own = ImageFont.load_default(size_px)
    path = None if _has(own, text) else _font_with(text)
    return own if path is None else ImageFont.truetype(path, size_px)


def drawable_names(names: Sequence[str]) -> list[str]:
    """Names of concepts as they can be drawn: where no font has the letters without accents, or else "concept 2"."""
    return [_drawable(name, f"concept {index + 1}") for index, name in enumerate(names)]


def _drawable(name: str, number: str) -> str:
    own = ImageFont.load_default(_TRIAL_PX)
    if _has(own, name) or _font_with(name) is not None:
        return name
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    if _has(own, plain):
        return plain
    return f"{number} (off)" if name.endswith(" (off)") else number


def drawable_text(text: str, font: Font) -> str:
    """A text in which letters that a font lacks are question marks."""
    return "".join(letter if _has(font, letter) else "?" for letter in text)


def shorten(text: str, width_px: float, font: Font) -> str:
    """A text with as much left out of its middle as is needed for a width."""
    kept = len(text)
    shortened = text
    while kept and font.getlength(shortened) > width_px:
        kept -= 1
        shortened = f"{text[: (kept + 1) // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"
    return shortened


def _has(font: Font, text: str) -> bool:
    """Whether a font draws each letter of a text otherwise than one that it lacks."""
    missing = bytes(font.getmask(_MISSING))
    return all(letter.isspace() or bytes(font.getmask(letter)) != missing for letter in set(text))


@lru_cache(256)
def _font_with(text: str) -> str | None:
    """The path of a font of the system that has all letters of a text."""
    for path in _system_fonts():
        try:
            if _has(ImageFont.truetype(path, _TRIAL_PX), text):
                return path
        except (OSError, ValueError):  # not a font after all, or one of a kind that pillow cannot draw
            continue
    return None


@lru_cache(1)
def _system_fonts() -> tuple[str, ...]:
    """Paths of the system's fonts, the most promising first."""
    found = []
    for folder in _folders():
        for at, _, files in os.walk(folder):
            found += [Path(at, name) for name in files if name.lower().endswith((".ttf", ".ttc", ".otf"))]
    return tuple(map(str, sorted(found, key=_promise)[:_MAX_TRIED]))


def _promise(path: Path) -> tuple[int, int, str]:
    name = path.stem.lower().replace(" ", "")
    place = next((i for i, start in enumerate(_PREFERRED) if name.startswith(start)), len(_PREFERRED))
    return place, sum(style in name for style in _STYLES), name


def _folders() -> list[Path]:
    """Where systems have their fonts."""
    home = Path.home()
    if sys.platform == "win32":
        users = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
        return [Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts"), users / "Microsoft" / "Windows" / "Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    own = [home / ".local" / "share" / "fonts", home / ".fonts"]
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), *own]
