"""The references of a trial: a folder of pictures, or those of the shipped workflows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from devtools.demo import PICTURES, WORKFLOW

from .errors import TrialError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
MASK = "_mask"
MOST = 10  # as many as MagicFace Apply takes


@dataclass(frozen=True)
class Concept:
    """A reference.

    Attributes:
        word: its words in caption and prompt.
        caption: what the picture shows.
        picture: the file.
        mask: the file of its mask, white where the concept is; None where it is to be found by the word.
    """

    word: str
    caption: str
    picture: Path
    mask: Path | None


def shipped() -> tuple[list[Concept], str]:
    """The references of a shipped workflow, and its prompt."""
    nodes = json.loads(WORKFLOW.read_text(encoding="utf-8"))

    def file(link: list[str]) -> Path:
        return PICTURES / nodes[link[0]]["inputs"]["image"]

    references = [node["inputs"] for node in nodes.values() if node["class_type"] == "MagicFaceReference"]
    (prompt,) = (node["inputs"]["text"] for node in nodes.values() if node["class_type"] == "MagicFacePrompt")
    return [
        Concept(one["concept"], one["caption"], file(one["image"]), file(one["mask"])) for one in references
    ], prompt


def read_concepts(folder: Path, masks: Path) -> list[Concept]:
    """The references of a folder: `name.png` with `name_mask.png` or transparency, and a caption in `name.txt`.

    Args:
        folder: pictures, each named by its word; an underscore stands for a space.
        masks: where masks that are made of transparency are written to.

    Raises:
        TrialError: there are none or too many, or one of them cannot be used.
    """
    if not folder.is_dir():
        raise TrialError(f"--concepts {folder} is not a folder")
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in ENDINGS]
    masks_of = {file.stem.removesuffix(MASK): file for file in files if file.stem.endswith(MASK)}
    pictures = [file for file in files if not file.stem.endswith(MASK)]
    for name in masks_of.keys() - {file.stem for file in pictures}:
        raise TrialError(f"{masks_of[name].name} is the mask of a picture {name!r} that is not there")
    if not 1 <= len(pictures) <= MOST:
        raise TrialError(
            f"--concepts {folder} has {len(pictures) or 'no'} pictures ({', '.join(ENDINGS)}); 1 to {MOST}"
        )
    concepts = [_concept(file, masks_of.get(file.stem), masks) for file in pictures]
    first: dict[str, Concept] = {}
    for one in concepts:
        if first.setdefault(one.word.lower(), one) is not one:
            other = first[one.word.lower()].picture.name
            raise TrialError(
                f"{other} and {one.picture.name} have the same word; a trial takes one picture of a concept"
            )
    return concepts


def _concept(picture: Path, mask: Path | None, masks: Path) -> Concept:
    word = " ".join(picture.stem.replace("_", " ").split())
    if not re.search(r"[^\W\d_]", word) or re.fullmatch(r"(img|dsc|image|photo)[\W\d]*", word.lower()):
        raise TrialError(f"{picture.name} has no word: name it by what it shows, as hat.png")
    text = picture.with_suffix(".txt")
    caption = " ".join(text.read_text(encoding="utf-8-sig").split()) if text.is_file() else f"a picture of a {word}"
    if not has_word(caption, word):
        raise TrialError(f"the caption in {text.name} lacks the word {word!r}, which {picture.name} is named by")
    try:
        with Image.open(picture) as opened:
            alpha = opened.convert("RGBA").getchannel("A") if opened.has_transparency_data else None
    except (UnidentifiedImageError, OSError):
        raise TrialError(f"{picture.name} cannot be read as a picture") from None
    if mask is None and alpha is not None and alpha.getextrema()[0] < 255:
        masks.mkdir(parents=True, exist_ok=True)
        mask = masks / f"{picture.stem}{MASK}.png"
        alpha.save(mask)
    return Concept(word, caption, picture.resolve(), mask and mask.resolve())


def usual_prompt(words: Sequence[str]) -> str:
    """A prompt that names every concept."""
    named = [f"a {word}" for word in words]
    return "a person with " + " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))


def check_prompt(prompt: str, words: Sequence[str]) -> None:
    """Raise a TrialError unless a prompt has every word."""
    missing = [repr(word) for word in words if not has_word(prompt, word)]
    if missing:
        raise TrialError(f"--prompt {prompt!r} lacks {', '.join(missing)}; it needs the word of every concept")


def has_word(text: str, word: str) -> bool:
    """Whether a text has a word, or several words next to each other."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None
