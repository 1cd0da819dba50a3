"""The positions of words among a prompt's tokens, and the tag that carries them through a graph."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..families.clip import CHUNK_TOK, check_streams

TAG = "magicface_prompt"
"""Key of the `PromptTokens` in a CONDITIONING's options; Combine, Set Area, ControlNet and the like copy it."""

Token = int | str
"""A vocabulary index, or the digest of a textual-inversion vector."""


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of an encoded prompt.

    Attributes:
        text: the prompt as written.
        tokens: one entry for each position of the encoded prompt, None for start, end and padding.
        starts: positions of the start tokens, one for each chunk.
    """

    text: str
    tokens: tuple[Token | None, ...]
    starts: tuple[int, ...]

    @property
    def content(self) -> tuple[Token, ...]:
        """The words' tokens only."""
        return tuple(token for token in self.tokens if token is not None)

    @property
    def words(self) -> list[str]:
        """The prompt's words, for messages."""
        return re.findall(r"[^\s,.;!?]+", re.sub(r":\s*[\d.]+(?=\s*\))|[()\[\]{}]", " ", self.text))

    def positions(self, phrase: Sequence[Token]) -> list[int]:
        """All positions at which the phrase's tokens follow one another, ascending; empty if nowhere.

        A phrase may cross the end of a chunk: padding and special tokens do not separate words.
        """
        indices = [index for index, token in enumerate(self.tokens) if token is not None]
        content, found = self.content, set()
        for first in range(len(content) - len(phrase) + 1):
            if content[first : first + len(phrase)] == tuple(phrase):
                found.update(indices[first : first + len(phrase)])
        return sorted(found)


def read_tokens(clip: Any, text: str) -> PromptTokens:
    """The tokens of a text as ComfyUI's CLIP arranges them, with weights, embeddings and long prompts.

    Raises:
        ValueError: a text encoder other than the CLIPs of SD 1.x, 2.x and SDXL.
    """
    streams = clip.tokenize(text, return_word_ids=True)
    check_streams(streams)
    # The streams of one model have the same layout, unless an embedding has more vectors for one of them: then the
    # encoder cuts to the shorter.
    chunks = min(streams.values(), key=lambda stream: sum(map(len, stream)))
    starts: list[int] = []
    tokens: list[Token | None] = []
    for chunk in chunks:
        starts.append(len(tokens))
        tokens.extend(_token(entry[0]) if entry[2] else None for entry in chunk)
    return PromptTokens(text=text, tokens=tuple(tokens), starts=tuple(starts))


def _token(token: Any) -> Token:
    if torch.is_tensor(token):
        return hashlib.sha256(token.detach().float().cpu().numpy().tobytes()).hexdigest()
    return int(token)


def start_positions(tag: PromptTokens | None, length: int) -> list[int]:
    """Positions of the start tokens of a prompt of `length` tokens.

    They are those of its tag, and one for each chunk appended to it: Conditioning (Concat) keeps the first prompt's tag
    and appends whole chunks. A prompt without a tag consists of whole chunks.
    """
    known, covered = (list(tag.starts), len(tag.tokens)) if tag else ([], 0)
    return known + list(range(covered, length, CHUNK_TOK))


def tagged(conditioning: Iterable[Sequence[Any]], tag: PromptTokens) -> list[list[Any]]:
    """A copy of a CONDITIONING that carries the tag."""
    return [[cond, {**options, TAG: tag}] for cond, options in conditioning]
