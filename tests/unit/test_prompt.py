"""The positions of words in a prompt's tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.sampling.conditioning.parts import EncodedParts, prompt_of
from magicface.sampling.conditioning.prompt import TAG, PromptTokens, Token, read_tokens, start_positions, tagged
from magicface.sampling.conditioning.words import near_words
from magicface.sampling.families.clip import CHUNK_TOK
from torch import Tensor


def tokens_of(*chunks: list[Token]) -> PromptTokens:
    """Chunks of 77 tokens: a start token, the words, and padding without words."""
    tokens: list[Token | None] = []
    for chunk in chunks:
        tokens += [None, *chunk, *[None] * (CHUNK_TOK - 1 - len(chunk))]
    return PromptTokens("", tuple(tokens), tuple(range(0, len(tokens), CHUNK_TOK)))


def test_phrases_of_one_or_several_tokens_are_found() -> None:
    tag = tokens_of([10, 20, 30, 40])
    assert tag.positions([20]) == [2]
    assert tag.positions((20, 30)) == [2, 3]
    assert tag.positions([10, 20, 30, 40]) == [1, 2, 3, 4]
    assert tag.content == (10, 20, 30, 40)


@pytest.mark.parametrize("phrase", [[50], [30, 20], [20, 40], [10, 20, 30, 40, 50], []])
def test_a_missing_phrase_has_no_positions(phrase: list[Token]) -> None:
    assert tokens_of([10, 20, 30, 40]).positions(phrase) == []
    assert tokens_of([]).positions(phrase) == []


def test_all_occurrences_of_a_phrase_are_found() -> None:
    assert tokens_of([7, 8, 1, 7, 2, 7, 8]).positions([7, 8]) == [1, 2, 6, 7]
    assert tokens_of([7, 1, 7, 2, 7]).positions([7]) == [1, 3, 5]


def test_occurrences_that_overlap_count_each_token_once() -> None:
    assert tokens_of([7, 7, 7]).positions([7, 7]) == [1, 2, 3]
    assert tokens_of([7, 8, 7, 8, 7]).positions([7, 8, 7]) == [1, 2, 3, 4, 5]


def test_a_phrase_across_two_chunks_is_found() -> None:
    full = tokens_of([*range(100, 174), 7], [8, 9])
    assert full.tokens[75] == 7 and full.tokens[76:78] == (None, None)
    assert full.positions([7, 8]) == [75, 78]
    short = tokens_of([1, 7], [8, 9], [7, 8])
    assert short.positions([7, 8]) == [2, 78, 155, 156]


def test_a_textual_inversion_is_found_like_other_tokens() -> None:
    assert tokens_of([5, "digest", "other"]).positions([5, "digest"]) == [1, 2]


@given(
    chunks=st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=3),
    phrase=st.lists(st.integers(0, 2), min_size=1, max_size=3),
)
def test_positions_equal_those_found_by_marking_tokens(chunks: list[list[Token]], phrase: list[Token]) -> None:
    tag = tokens_of(*chunks)
    words = [(77 * number + 1 + at, token) for number, chunk in enumerate(chunks) for at, token in enumerate(chunk)]
    expected = set()
    for first in range(len(words)):
        if [token for _, token in words[first : first + len(phrase)]] == phrase:
            expected |= {position for position, _ in words[first : first + len(phrase)]}
    assert tag.positions(phrase) == sorted(expected)


def test_the_longer_phrase_has_a_shared_position() -> None:
    tag = tokens_of([1, 2, 9, 2])
    assert tag.positions_of([[2], [1, 2]]) == [[4], [1, 2]]
    assert tag.positions_of([[1, 2], [2]]) == [[1, 2], [4]]
    assert tokens_of([1, 2]).positions_of([[2], [1, 2], []]) == [[], [1, 2], []]
    assert tokens_of([1, 2, 3, 4]).positions_of([[1, 2, 3], [3, 4]]) == [[1, 2, 3], [4]]
    assert tokens_of([1, 2, 3]).positions_of([[1, 2], [2, 3]]) == [[1, 2], [2, 3]]  # of equal length: both


@given(
    words=st.lists(st.integers(0, 3), max_size=12),
    phrases=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=4),
    data=st.data(),
)
def test_positions_do_not_depend_on_the_order_of_phrases(
    words: list[int], phrases: list[list[Token]], data: st.DataObject
) -> None:
    tag = tokens_of(list(words))
    order = data.draw(st.permutations(range(len(phrases))))
    found = tag.positions_of(phrases)
    assert tag.positions_of([phrases[index] for index in order]) == [found[index] for index in order]
    for phrase, positions in zip(phrases, found, strict=True):
        longer = [other for other in phrases if len(other) > len(phrase)]
        taken = {at for other in longer for at in tag.positions(other)}
        assert positions == [at for at in tag.positions(phrase) if at not in taken]


def test_no_phrase_crosses_the_seam_of_two_parts() -> None:
    tag = replace(tokens_of([1, 2], [3]), parts=(CHUNK_TOK,))
    assert tag.positions([2, 3]) == [] and tag.positions([1, 2]) == [1, 2] and tag.positions([3]) == [78]


def test_a_phrase_is_where_the_conditioning_has_all_of_it() -> None:
    tag = replace(tokens_of([1, 2, 9, 1, 2]), doubtful=frozenset({2}))
    assert tag.positions([1, 2]) == [4, 5] and tag.positions([1]) == [1, 4]
    assert tag.is_doubtful([1, 2]) and not tag.is_doubtful([1]) and not tag.is_doubtful([7])


def test_signs_within_a_phrase_are_its_positions() -> None:
    tag = replace(tokens_of([1, 7, 2, 8]), plain=((1, 1), (2, 3), (8, 4)))
    assert tag.positions([1, 2]) == [1, 2, 3] and tag.content == (1, 2, 8)


# Parts


def encoded(seed: int, chunks: int = 1) -> Tensor:
    return torch.randn(1, 77 * chunks, 4, generator=torch.Generator().manual_seed(seed))


def test_appended_chunks_are_known_by_their_numbers() -> None:
    known, first, second, third = EncodedParts(), tokens_of([1]), tokens_of([2], [3]), tokens_of([4])
    texts = encoded(1), encoded(2, 2), encoded(3)
    for text, tag in zip(texts, (first, second, third), strict=True):
        known.add(text, tag)
    prompt = prompt_of({TAG: first, "cross_attn": torch.cat(texts, dim=1)}, known)
    assert prompt is not None and not prompt.unknown
    assert prompt.content == (1, 2, 3, 4) and prompt.starts == (0, 77, 154, 231)
    assert prompt.parts == (77, 231) and prompt.positions([2, 3]) == [78, 155] and prompt.positions([1, 2]) == []
    strange = prompt_of({TAG: first, "cross_attn": torch.cat([texts[0], encoded(9), texts[2]], dim=1)}, known)
    assert strange is not None and strange.unknown
    assert strange.content == (1, 4) and strange.positions([4]) == [155] and len(strange.tokens) == 231
    assert prompt_of({"cross_attn": texts[0]}, known) is None
    assert prompt_of({TAG: first}, known) is first


def test_the_oldest_parts_are_forgotten() -> None:
    known = EncodedParts(limit=2)
    for seed in (1, 2):
        known.add(encoded(seed), tokens_of([seed]))
    assert known.find(encoded(1)) is not None
    known.add(encoded(3), tokens_of([3]))
    assert known.find(encoded(2)) is None and known.find(encoded(1)) is not None is not known.find(encoded(3))


@pytest.mark.parametrize(
    ("name", "words", "near"),
    [
        ("hat", ["Hats", "a", "that"], ["Hats"]),
        ("hats", ["a", "hat"], ["hat"]),
        ("red hat", ["red", "hats"], ["hats"]),
        ("hat", ["a", "boy"], []),
        ("sombrerro", ["sombrero"], ["sombrero"]),
    ],
)
def test_near_words(name: str, words: list[str], near: list[str]) -> None:
    assert near_words(name, words)[: len(near) or 3] == near


def test_start_tokens_of_a_tagged_prompt() -> None:
    one, two = tokens_of([1]), tokens_of([1], [2])
    assert start_positions(one, 77) == [0]
    assert start_positions(two, 154) == [0, 77]


def test_start_tokens_of_a_prompt_with_concatenated_text() -> None:
    assert start_positions(tokens_of([1]), 231) == [0, 77, 154]
    assert start_positions(tokens_of([1], [2]), 231) == [0, 77, 154]
    uneven = PromptTokens("", (None,) * 50, (0, 20))
    assert start_positions(uneven, 50 + 154) == [0, 20, 50, 127]


def test_start_tokens_without_a_tag() -> None:
    assert start_positions(None, 77) == [0]
    assert start_positions(None, 231) == [0, 77, 154]
    assert start_positions(None, 0) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a boy, wearing a red hat.", ["a", "boy", "wearing", "a", "red", "hat"]),
        ("a (red hat:1.2) and [shoes]", ["a", "red", "hat", "and", "shoes"]),
        ("((big)) {old} coat : 2", ["big", "old", "coat", ":", "2"]),
        ("a half-open t-shirt; yes!", ["a", "half-open", "t-shirt", "yes"]),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert PromptTokens(text, (), ()).words == words


class StandInClip:
    """A text encoder that returns the same streams of (token, weight, word) for any text."""

    def __init__(self, **streams: list[list[tuple[Any, float, int]]]) -> None:
        self.streams = streams

    def tokenize(self, text: str, return_word_ids: bool = False) -> Any:
        assert return_word_ids
        return self.streams


def chunk(*tokens: Any) -> list[tuple[Any, float, int]]:
    """A chunk of start token, words, end token and padding; only words have a number."""
    words = [(token, 1.0, number + 1) for number, token in enumerate(tokens)]
    return [(49406, 1.0, 0), *words, *[(49407, 1.0, 0)] * (76 - len(words))]


def test_tokens_are_read_in_the_clips_layout() -> None:
    tag = read_tokens(StandInClip(l=[chunk(10, 20), chunk(30)]), "a text")
    assert (tag.text, tag.starts, len(tag.tokens)) == ("a text", (0, 77), 154)
    assert tag.content == (10, 20, 30)
    assert tag.positions([20, 30]) == [2, 78]
    assert read_tokens(StandInClip(h=[chunk(4)]), "").content == (4,)
    assert read_tokens(StandInClip(g=[chunk(5)], l=[chunk(5)]), "").tokens[:2] == (None, 5)


def test_the_shorter_stream_gives_the_length_of_the_encoded_prompt() -> None:
    """An embedding may have different numbers of vectors for SDXL's two encoders."""
    long, short = [chunk(1), chunk(2)], [chunk(3)]
    for streams in ({"l": long, "g": short}, {"g": short, "l": long}, {"g": long, "l": short}):
        assert read_tokens(StandInClip(**streams), "").content == (3,)


def test_a_word_that_is_the_padding_token_is_still_a_word() -> None:
    assert read_tokens(StandInClip(l=[chunk(49407, 0)]), "").content == (49407, 0)


def test_vectors_of_embeddings_are_compared_by_their_values() -> None:
    g = torch.Generator().manual_seed(1)
    vector, other = torch.randn(8, generator=g), torch.randn(8, generator=g)
    tag = read_tokens(StandInClip(l=[chunk(vector, other, vector.clone())]), "")
    first, second, third = tag.content
    assert isinstance(first, str) and first == third != second
    phrase = read_tokens(StandInClip(l=[chunk(vector)]), "").content
    assert tag.positions(phrase) == [1, 3]


def test_other_text_encoders_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"reads l, t5xxl; connect the CLIP of"):
        read_tokens(StandInClip(t5xxl=[chunk(1)], l=[chunk(1)]), "")


def test_tagging_does_not_change_its_input() -> None:
    cond, options = torch.zeros(1, 77, 4), {"pooled_output": 1}
    tag = tokens_of([1])
    conditioning = [(cond, options), (cond, {})]
    out = tagged(conditioning, [tag, tag])
    assert [entry[1] for entry in out] == [{"pooled_output": 1, TAG: tag}, {TAG: tag}]
    assert all(entry[0] is cond for entry in out)
    assert conditioning[0][1] is options and options == {"pooled_output": 1}
