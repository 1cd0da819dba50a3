"""Why a concept has no words in the prompt."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import SamplingError
from .prompt import PromptTokens

if TYPE_CHECKING:
    from ..method import Method, Reference

_NEAR = 0.75


def concept_without_words(method: Method, concept: Reference, prompts: Sequence[PromptTokens]) -> SamplingError:
    """The error for a concept that has no position in any of the positive prompts: the likeliest reason, named."""
    name, phrase = concept.concept, concept.concept_tokens
    if any(prompt.positions(phrase) for prompt in prompts):
        longer = [
            repr(other.concept)
            for other in method.concepts
            if method.is_active(other)
            and len(other.concept_tokens) > len(phrase)
            and any(set(prompt.positions(other.concept_tokens)) & set(prompt.positions(phrase)) for prompt in prompts)
        ]
        return SamplingError(
            f"concept: {name!r} is in the positive prompt only as a part of {' and '.join(longer)}, which takes its"
            " words. Give each concept words of its own, or name both alike if they are one thing",
            "Reference",
        )
    if any(prompt.is_doubtful(phrase) for prompt in prompts):
        return SamplingError(
            f"conditioning: has other words where the text has {name!r}. It was encoded from another text (a prompt"
            " language may have changed it, such as [a:b:0.5]), or with another CLIP or clip skip. Give the text as it"
            " was encoded, with BREAK between its parts, and the same CLIP; or encode it in MagicFace Prompt",
            "Prompt",
        )
    words = [word for prompt in prompts for word in prompt.words]
    near = near_words(name, words)
    hint = (
        f"; {' and '.join(map(repr, near))} {'is' if len(near) == 1 else 'are'} in it, {name!r} is not" if near else ""
    )
    part = ""
    if any(prompt.unknown for prompt in prompts):
        part = (
            ". A part was joined to it, as by Conditioning (Concat), whose words are not known: encode every part with"
            " MagicFace Prompt"
        )
    listed = "; ".join(dict.fromkeys(", ".join(prompt.words) for prompt in prompts))
    return SamplingError(
        f"concept: {name!r} is not in the positive prompt, whose words are {listed}{hint}{part}. Write the phrase into"
        " the prompt (of MagicFace Prompt, or of MagicFace Picture), or name the concept as the prompt does",
        "Reference",
    )


def near_words(name: str, words: Sequence[str]) -> list[str]:
    """Words of a prompt that look much like those of a phrase, at most three."""
    given = {word.lower(): word for word in words}
    found: list[str] = []
    for part in name.lower().split():
        if part not in given:
            begins = [word for word in given if len(part) > 2 and (word.startswith(part) or part == f"{word}s")]
            found += [given[word] for word in (*begins, *difflib.get_close_matches(part, given, 3, _NEAR))]
    return list(dict.fromkeys(found))[:3]
