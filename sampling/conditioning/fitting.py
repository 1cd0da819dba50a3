"""Where the words of a text are in a conditioning that another encoder made of it.

That encoder may have a prompt language of its own, or have encoded the text in parts. So the text is encoded here too,
in each way in which it may have been read, and compared with what is given.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..families.clip import CHUNK_TOK
from .parts import joined
from .prompt import MODEL_TAG, PromptTokens, Token, read_tokens

_BREAK = re.compile(r"\bBREAK\b")
_BRACKETS = re.compile(r"\[([^\[\]:|]*)\]")
_CHUNK_WORDS = CHUNK_TOK - 2

# One word is told from another by its numbers without the mean of the words, where it must be more like itself than
# like the others. On the small models 0.45 holds for at least 94 % of the words in another layer, 97 % of those mixed
# with another text and all with other weights, and for at most 10 to 20 % of wrong ones, which are seldom neighbours:
# so most of the latest words must be right too.
_ALIKE, _MARGIN = 0.45, -0.1
_LATEST, _RIGHT = 4, 0.5
# A word that another scheme of weights scaled has its direction; that of an SDXL prompt with two texts has a part of
# its numbers as they are.
_PARALLEL = 0.995
_SHARED_PART = 0.25


class FittedText:
    """A text whose words are to be found in conditionings made of it.

    Args:
        clip: ComfyUI's CLIP.
        text: as the user gives it.

    Raises:
        ValueError: a text encoder that `read_tokens` does not know.
    """

    def __init__(self, clip: Any, text: str) -> None:
        self._clip, self._text = clip, text
        self.plain = read_tokens(clip, text)
        self._encoded: dict[tuple[str, ...], tuple[PromptTokens, Tensor]] = {}

    def tokens_in(self, given: Tensor) -> PromptTokens:
        """The text's tokens as they are in a conditioning (1, T, width), doubtful where it has other words.

        Raises:
            ValueError: a conditioning of another length, whatever way it was read.
        """
        fitting: list[PromptTokens] = []
        for parts in self._readings():
            tokens, encoded = self._encode(parts)
            if encoded.shape[1] == len(tokens.tokens) == given.shape[1]:
                fitting.append(_compared(tokens, encoded, given))
                if not fitting[-1].doubtful:
                    return fitting[-1]
        followed = self._follow(given)
        if followed is not None:
            return followed
        if fitting:
            return min(fitting, key=lambda tokens: len(tokens.doubtful))
        raise ValueError(self._refusal(given))

    def _readings(self) -> Iterator[tuple[str, ...]]:
        """The text as ComfyUI reads it; and without LoRA tags and [brackets], in parts where BREAK is."""
        yield (self._text,)
        parts = tuple(part.strip() for part in _BREAK.split(_plain_text(self._text)))
        if parts != (self._text,):
            yield parts

    def _encode(self, parts: tuple[str, ...]) -> tuple[PromptTokens, Tensor]:
        if parts not in self._encoded:
            tokens = joined([read_tokens(self._clip, part) for part in parts], self._text)
            encoded = [self._clip.encode_from_tokens(self._clip.tokenize(part)) for part in parts]
            self._encoded[parts] = tokens, torch.cat(encoded, dim=1)
        return self._encoded[parts]

    def _follow(self, given: Tensor) -> PromptTokens | None:
        """Follow the text through the given chunks, wherever it was cut.

        A word is encoded from those before it in its chunk, and from no later ones. So a chunk filled with the words
        ahead is equal to the given one until that one ends. None if words are left over, or are not to be followed.
        """
        text = _BREAK.sub(" ", _plain_text(self._text))
        streams = {
            name: [entry for chunk in chunks for entry in chunk if entry[2]]
            for name, chunks in self._clip.tokenize(text, return_word_ids=True).items()
        }
        count = max(map(len, streams.values()))
        if given.shape[1] % CHUNK_TOK or any(len(stream) != count for stream in streams.values()):
            return None
        empty = self._clip.tokenize("")
        positions: list[int] = []
        for begin in range(0, given.shape[1], CHUNK_TOK):
            at = len(positions)
            ahead = min(_CHUNK_WORDS, count - at)
            chunk = {name: [_filled(empty[name][0], stream[at : at + ahead])] for name, stream in streams.items()}
            encoded = self._clip.encode_from_tokens(chunk)
            if ahead == 0 or encoded.shape[1:] != given[:, :CHUNK_TOK].shape[1:]:
                return None
            same = _same(given[0, begin + 1 : begin + 1 + ahead].to(encoded), encoded[0, 1 : 1 + ahead]).tolist()
            held = same.index(False) if False in same else ahead
            positions += range(begin + 1, begin + 1 + held)
        return self._laid_out(text, positions, given.shape[1]) if len(positions) == count else None

    def _laid_out(self, text: str, positions: Sequence[int], length: int) -> PromptTokens:
        """The tokens of a text, each moved to its position."""
        read = read_tokens(self._clip, text)
        origins = [index for index, token in enumerate(read.tokens) if token is not None]
        moved = dict(zip(origins, positions, strict=True))
        tokens: list[Token | None] = [None] * length
        for origin, position in moved.items():
            tokens[position] = read.tokens[origin]
        return PromptTokens(
            text=self._text,
            tokens=tuple(tokens),
            starts=tuple(range(0, length, CHUNK_TOK)),
            plain=tuple((token, moved[origin]) for token, origin in read.spelling),
        )

    def _refusal(self, given: Tensor) -> str:
        """Why a conditioning is not of this text, as far as one can know."""
        tokens, encoded = self._encode((self._text,))
        length, expected = given.shape[1], len(tokens.tokens)
        if encoded.shape[1] != expected:
            return self.changed(encoded)
        found = f"has {length} tokens and the text {expected}"
        if length == 2 * expected:
            every_second = _compared(tokens, encoded, given[:, ::2])
            if not every_second.doubtful:
                return (
                    f"{found}: each word is in it twice, as keys and as values, which is how some packs encode negative"
                    " weights of words; encode it without them"
                )
        return (
            f"{found}; give the text that the conditioning was encoded from (for CLIPTextEncodeSDXL its longer one)."
            " Where it was joined of parts, by BREAK or Conditioning (Concat), write the parts in their order, with"
            " BREAK between them"
        )

    def changed(self, encoded: Tensor) -> str:
        """The message for a CLIP that encodes to another number of tokens than it reads."""
        return (
            f"clip: encodes the {len(self.plain.tokens)} tokens of the text as {encoded.shape[1]}: another node changed"
            " how it encodes (negative weights of words do this); connect the CLIP from before that node"
        )


def _plain_text(text: str) -> str:
    """A text without LoRA tags, and without the [brackets] that are weights in some prompt languages."""
    return _BRACKETS.sub(r"\1", MODEL_TAG.sub(" ", text))


def _filled(empty: Sequence[Any], words: Sequence[Any]) -> list[Any]:
    """A chunk of words: start token, words, end token, padding."""
    start, end, pad = empty[0], empty[1], empty[2]
    return [start, *(entry[:2] for entry in words), end, *[pad] * (_CHUNK_WORDS - len(words))]


def _compared(tokens: PromptTokens, encoded: Tensor, given: Tensor) -> PromptTokens:
    """The tokens, doubtful where the given conditioning is not like what they were encoded to.

    Conditionings of another width cannot be compared; they are taken as they are.
    """
    if given.shape[2] != encoded.shape[2]:
        return tokens
    doubtful: set[int] = set()
    for begin, end in zip(tokens.starts, (*tokens.starts[1:], len(tokens.tokens)), strict=True):
        at = [index for index in range(begin, end) if tokens.tokens[index] is not None]
        if at:
            rows = [*at, at[-1] + 1]  # the end token, without which a single word would be its own mean
            named = [*(tokens.tokens[index] for index in at), None]
            right = _right(encoded[0, rows].float().cpu(), given[0, rows].float().cpu(), named)
            doubtful |= {index for index, good in zip(at, right, strict=False) if not good}
    return replace(tokens, doubtful=frozenset(doubtful))


def _right(encoded: Tensor, given: Tensor, named: Sequence[Token | None]) -> list[bool]:
    """Whether each row (T, width) is that of its word, judged by itself and by those before it."""
    centred, other = encoded - encoded.mean(dim=0), given - given.mean(dim=0)
    cosine = _cosine(other[:, None], centred[None])
    different = torch.tensor([[one != two for two in named] for one in named])
    rival = cosine.masked_fill(~different, -1.0).amax(dim=1)
    own = cosine.diagonal()
    alike = (_same(given, encoded) | ((own > _ALIKE) & (own - rival > _MARGIN))).tolist()
    latest = (alike[max(0, last - _LATEST) : last] for last in range(1, len(alike) + 1))
    return [good and sum(before) >= _RIGHT * len(before) for good, before in zip(alike, latest, strict=True)]


def _same(given: Tensor, encoded: Tensor) -> Tensor:
    """(T,) bool: whether a word is the same but for its weight or for one of two text encoders."""
    given, encoded = given.float(), encoded.float()
    scale = encoded.std(dim=-1, keepdim=True)
    shared = ((given - encoded).abs() <= 1e-2 * encoded.abs() + 1e-3 * scale).float().mean(dim=-1)
    return (shared >= _SHARED_PART) | (_cosine(given, encoded) >= _PARALLEL)


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(one, other, dim=-1)
