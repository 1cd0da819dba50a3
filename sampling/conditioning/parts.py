"""The words of a conditioning that was put together from several: what each of its chunks was encoded from."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..families.clip import CHUNK_TOK
from .prompt import TAG, PromptTokens


class EncodedParts:
    """Which tokens the latest encoded chunks have, found by the chunk's numbers.

    Conditioning (Concat) keeps the options, and so the tag, of the first conditioning alone. What it appends are whole
    chunks, bit for bit: these are looked up here. Safe to use from several threads.

    Args:
        limit: how many chunks it remembers.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._known: OrderedDict[str, tuple[PromptTokens, int, int]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, text: Tensor, tokens: PromptTokens) -> None:
        """Remember the chunks of an encoded text, (1, T, width)."""
        with self._lock:
            for begin, end in _spans(tokens):
                key = _digest(text[:, begin:end])
                self._known[key] = tokens, begin, end
                self._known.move_to_end(key)
            while len(self._known) > self._limit:
                self._known.popitem(last=False)

    def find(self, chunk: Tensor) -> tuple[PromptTokens, int, int] | None:
        """The tokens of a chunk: (the prompt that it is of, where it begins in it, where it ends)."""
        key = _digest(chunk)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)


ENCODED_PARTS = EncodedParts()
"""What MagicFace Prompt encoded."""


def _spans(tokens: PromptTokens) -> Iterator[tuple[int, int]]:
    return zip(tokens.starts, (*tokens.starts[1:], len(tokens.tokens)), strict=True)


def _digest(chunk: Tensor) -> str:
    numbers = chunk.detach().contiguous().cpu()
    digest = hashlib.sha256(f"{numbers.dtype} {tuple(numbers.shape)}".encode())
    digest.update(numbers.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def prompt_of(cond: dict[str, Any], known: EncodedParts = ENCODED_PARTS) -> PromptTokens | None:
    """The words of one of the guider's conds: those of its tag, and of what was appended to it; None without a tag."""
    tag, text = cond.get(TAG), cond.get("cross_attn")
    if not isinstance(tag, PromptTokens) or text is None:
        return tag if isinstance(tag, PromptTokens) else None
    before: tuple[PromptTokens, int] | None = None
    for begin in range(len(tag.tokens), text.shape[1], CHUNK_TOK):
        found = known.find(text[:, begin : begin + CHUNK_TOK])
        if found is None:
            rest = min(CHUNK_TOK, text.shape[1] - begin)
            found = PromptTokens("", (None,) * rest, (0,), unknown=True), 0, rest
        part, first, last = found
        goes_on = before == (part, first)
        tag = _joined(tag, _cut(part, first, last), part.text if first == 0 else "", goes_on)
        before = part, last
    return tag


def _cut(tokens: PromptTokens, begin: int, end: int) -> PromptTokens:
    """Some chunks of a prompt."""
    return replace(
        tokens,
        tokens=tokens.tokens[begin:end],
        starts=tuple(at - begin for at in tokens.starts if begin <= at < end),
        parts=tuple(at - begin for at in tokens.parts if begin <= at < end),
        plain=tuple((token, at - begin) for token, at in tokens.spelling if begin <= at < end),
        doubtful=frozenset(at - begin for at in tokens.doubtful if begin <= at < end),
    )


def _joined(one: PromptTokens, other: PromptTokens, text: str, goes_on: bool) -> PromptTokens:
    """Two prompts, one behind the other; the second is a part of its own unless it goes on with the first."""
    shift = len(one.tokens)
    return PromptTokens(
        text=" ".join(filter(None, (one.text, text))),
        tokens=one.tokens + other.tokens,
        starts=one.starts + tuple(at + shift for at in other.starts),
        parts=one.parts + tuple(at + shift for at in other.parts) + (() if goes_on else (shift,)),
        plain=one.spelling + tuple((token, at + shift) for token, at in other.spelling),
        doubtful=one.doubtful | {at + shift for at in other.doubtful},
        unknown=one.unknown or other.unknown,
    )


def joined(parts: list[PromptTokens], text: str) -> PromptTokens:
    """A text that is encoded in parts."""
    whole = parts[0]
    for part in parts[1:]:
        whole = _joined(whole, part, part.text, goes_on=False)
    return replace(whole, text=text)
