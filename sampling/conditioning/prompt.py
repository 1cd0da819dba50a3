"""The positions of words among a prompt's tokens, and the tag that carries them through a graph."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..families.clip import CHUNK_TOK, check_streams

TAG = "magicface_prompt"
"""Key of the `PromptTokens` in a CONDITIONING's options; Combine, Set Area, ControlNet and the like copy it."""

Token = int | str
"""A vocabulary index, or the digest of a textual-inversion vector."""


_APOSTROPHES = "'\u2018\u2019\u02bc\u2032\u00b4`\uff07"
_JOINERS = "-_\u2010\u2011\u2012\u2013\u2014\u2212\uff0d\uff3f"
_JOINT = re.compile(rf"[{_APOSTROPHES}{re.escape(_JOINERS)}]+")
_CONTRACTION = re.compile(rf"[{_APOSTROPHES}](?:s|t|re|ve|m|ll|d)\b", re.IGNORECASE)
MODEL_TAG = re.compile(r"<[a-z]+:[^<>]*>", re.IGNORECASE)
"""A tag such as <lora:hat:0.8>, with which some encoders load a LoRA."""


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of an encoded prompt.

    Attributes:
        text: the prompt as written.
        tokens: one entry for each position of the encoded prompt, None for what belongs to no word: start, end,
            padding, and tags such as <lora:hat:0.8>.
        starts: positions of the start tokens, one for each chunk.
        parts: the starts at which a part begins that was encoded apart from what is before it; no phrase crosses them.
        plain: (token, position) of the words in plain spelling, which leaves hyphens, underscores and apostrophes out;
            None where that is the spelling of `tokens`.
        doubtful: positions at which the conditioning does not have the text's word.
        unknown: whether it has a part of which no words are known.
    """

    text: str
    tokens: tuple[Token | None, ...]
    starts: tuple[int, ...]
    parts: tuple[int, ...] = ()
    plain: tuple[tuple[Token, int], ...] | None = None
    doubtful: frozenset[int] = frozenset()
    unknown: bool = False

    @property
    def content(self) -> tuple[Token, ...]:
        """The words' tokens only, in plain spelling."""
        return tuple(token for token, _ in self.spelling)

    @property
    def spelling(self) -> tuple[tuple[Token, int], ...]:
        """(token, position) of the words in plain spelling, ascending."""
        if self.plain is not None:
            return self.plain
        return tuple((token, index) for index, token in enumerate(self.tokens) if token is not None)

    @property
    def words(self) -> list[str]:
        """The prompt's words, for messages."""
        text = MODEL_TAG.sub(" ", self.text)
        return re.findall(r"[^\s,.;!?]+", re.sub(r":\s*[\d.]+(?=\s*\))|[()\[\]{}]", " ", text))

    def positions(self, phrase: Sequence[Token]) -> list[int]:
        """All positions at which the phrase's tokens follow one another, ascending; empty if nowhere.

        A phrase may cross the end of a chunk: padding and special tokens do not separate words. Hyphens and the like
        within it count too. Where the conditioning has other words, there is no phrase.
        """
        return sorted(set().union(*self._occurrences(phrase)) - self.doubtful)

    def _occurrences(self, phrase: Sequence[Token], doubted: bool = False) -> Iterator[set[int]]:
        """The positions of each occurrence that is in the conditioning, or of the doubtful ones."""
        spelling, wanted = self.spelling, tuple(phrase)
        content = tuple(token for token, _ in spelling)
        for first in range(len(content) - len(wanted) + 1 if wanted else 0):
            if content[first : first + len(wanted)] != wanted:
                continue
            own = [position for _, position in spelling[first : first + len(wanted)]]
            begin, end = own[0], own[-1]
            if not any(begin < part <= end for part in self.parts) and doubted != self.doubtful.isdisjoint(own):
                yield {at for at in range(begin, end + 1) if self.tokens[at] is not None}

    def is_doubtful(self, phrase: Sequence[Token]) -> bool:
        """Whether the text has the phrase where the conditioning has something else."""
        return any(self._occurrences(phrase, doubted=True))

    def positions_of(self, phrases: Sequence[Sequence[Token]]) -> list[list[int]]:
        """The positions of all phrases, ascending.

        A position in several phrases belongs to the longest of them, in whatever order they come. It is listed for all
        phrases of that length.
        """
        found = [self.positions(phrase) for phrase in phrases]
        length = [0] * len(self.tokens)
        for phrase, positions in zip(phrases, found, strict=True):
            for at in positions:
                length[at] = max(length[at], len(phrase))
        return [
            [at for at in positions if length[at] == len(phrase)]
            for phrase, positions in zip(phrases, found, strict=True)
        ]


def read_tokens(clip: Any, text: str) -> PromptTokens:
    """The tokens of a text as ComfyUI's CLIP arranges them, with weights, embeddings and long prompts.

    Raises:
        ValueError: a text encoder other than the CLIPs of SD 1.x, 2.x and SDXL.
    """
    starts: list[int] = []
    tokens: list[Token | None] = []
    for chunk in _chunks(clip, text):
        starts.append(len(tokens))
        tokens.extend(_token(entry[0]) if entry[2] else None for entry in chunk)
    indices = [index for index, token in enumerate(tokens) if token is not None]
    for first, last in _tags(clip, text):
        for index in indices[first:last]:
            tokens[index] = None
    return PromptTokens(text=text, tokens=tuple(tokens), starts=tuple(starts), plain=_plain(clip, text, tokens))


def _chunks(clip: Any, text: str) -> list[list[Any]]:
    """The chunks of (token, weight, word) in which a text is encoded.

    The streams of one model have the same layout, unless an embedding has more vectors for one of them: then the
    encoder cuts to the shorter.
    """
    streams = clip.tokenize(text, return_word_ids=True)
    check_streams(streams)
    return min(streams.values(), key=lambda stream: sum(map(len, stream)))


def _content(clip: Any, text: str) -> list[Token]:
    return [_token(entry[0]) for chunk in _chunks(clip, text) for entry in chunk if entry[2]]


def _tags(clip: Any, text: str) -> Iterator[tuple[int, int]]:
    """(first, last + 1) word token of each tag such as <lora:hat:0.8>: what changes if another sign has its place."""
    for match in MODEL_TAG.finditer(text):
        given = _content(clip, text)
        other = _content(clip, f"{text[: match.start()]} | {text[match.end() :]}")
        before = _alike(given, other)
        yield before, len(given) - min(_alike(given[::-1], other[::-1]), len(given) - before)


def _alike(one: Sequence[Token], other: Sequence[Token]) -> int:
    """How many tokens two texts begin with together."""
    different = (index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(different, min(len(one), len(other)))


def _plain(clip: Any, text: str, tokens: Sequence[Token | None]) -> tuple[tuple[Token, int], ...]:
    """(token, position) of the words without hyphens, underscores and apostrophes.

    One letter has other tokens behind an ASCII apostrophe than behind a typographic one, so each sign that is in the
    text is replaced by the tokens of what it stands for.
    """
    signs = {*_JOINT.findall(text), *"".join(_JOINT.findall(text)), *_CONTRACTION.findall(text)}
    rules = {tuple(_content(clip, sign)): tuple(_content(clip, _JOINT.sub(" ", sign))) for sign in signs}
    ordered = sorted((rule for rule in rules.items() if rule[0]), key=lambda rule: -len(rule[0]))
    words = [(token, index) for index, token in enumerate(tokens) if token is not None]
    plain: list[tuple[Token, int]] = []
    at = 0
    while at < len(words):
        ahead = tuple(token for token, _ in words[at:])
        sign, meaning = next((rule for rule in ordered if ahead[: len(rule[0])] == rule[0]), (ahead[:1], ahead[:1]))
        plain += [(token, words[at + len(sign) - 1][1]) for token in meaning]
        at += len(sign)
    return tuple(plain)


def _token(token: Any) -> Token:
    if torch.is_tensor(token):
        return hashlib.sha256(token.detach().float().cpu().numpy().tobytes()).hexdigest()
    return int(token)


def start_positions(tag: PromptTokens | None, length: int) -> list[int]:
    """Positions of the start tokens of a prompt of `length` tokens.

    They are those of its tag, and one for each chunk appended to it. A prompt without a tag consists of whole chunks.
    """
    known, covered = (list(tag.starts), len(tag.tokens)) if tag else ([], 0)
    return known + list(range(covered, length, CHUNK_TOK))


def tagged(conditioning: Iterable[Sequence[Any]], tags: Iterable[PromptTokens]) -> list[list[Any]]:
    """A copy of a CONDITIONING whose entries carry their tags."""
    return [[cond, {**options, TAG: tag}] for (cond, options), tag in zip(conditioning, tags, strict=True)]
