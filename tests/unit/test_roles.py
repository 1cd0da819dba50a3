"""The role of a cond, its area, and its prompt tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from magicface.sampling.conditioning.prompt import TAG, PromptTokens
from magicface.sampling.conditioning.roles import CondRow, Texts, known_conds, match_list
from torch import Tensor

PROMPT = PromptTokens("a prompt", (None, 1, 2, None, None), (0,))


class StandInText:
    """The text entry of a model's conds."""

    def __init__(self, cond: Tensor) -> None:
        self.cond = cond


@pytest.mark.parametrize(("index", "role"), [(0, "negative"), (1, "positive"), (2, "other")])
def test_a_role_is_decided_by_the_list_and_not_by_its_position(index: int, role: str) -> None:
    """There are three lists in another order, and the last one has a text of its own."""
    cond = {"uuid": "a", "model_conds": {}, "area": (100, 9, 2, 4)}
    positive, negative = [cond], [dict(cond)]
    guider_conds = {"positive": positive, "negative": negative}
    other = [{**cond, "model_conds": {"c_crossattn": StandInText(torch.ones(1, 0, 4))}}]
    lists = [match_list(listed, guider_conds) for listed in (negative, positive, other, None)]
    known = known_conds(lists, Texts({}), (1, 4, 8, 12))
    assert set(known) == {(0, "a"), (1, "a"), (2, "a")}
    row = known[index, "a"]
    assert (row.role, row.length, row.tag, row.zeroed, row.starts) == (role, 0, None, False, [])
    assert row.area == (6, 8, 2, 4)  # cut to the latent


def test_a_tag_belongs_to_its_text_and_not_to_the_options_around_it() -> None:
    prompt, zeros = torch.ones(1, 5, 4), torch.zeros(1, 9, 4)
    texts = Texts({"positive": [{"cross_attn": prompt, TAG: PROMPT}], "negative": [{"cross_attn": zeros}, {}]})
    assert texts.of(prompt) == (PROMPT, False) and texts.of(zeros) == (None, True)
    assert texts.of(prompt.clone()) == (None, False)
    copied = {"uuid": "a", TAG: PROMPT, "model_conds": {"c_crossattn": StandInText(zeros)}}
    row = known_conds([match_list([copied], {})], texts, (8, 12))[0, "a"]
    assert (row.tag, row.zeroed, row.length, row.starts) == (None, True, 9, [0])
    own = {"uuid": "a", "model_conds": {"c_crossattn": StandInText(prompt)}}
    row = known_conds([match_list([own], {})], texts, (8, 12))[0, "a"]
    assert (row.tag, row.zeroed, row.length, row.starts) == (PROMPT, False, 5, [0])


def test_a_copied_list_has_the_role_of_the_texts_in_it() -> None:
    """The uuid alone does not tell: a cond with an area has a counterpart of the same uuid in the other list."""
    texts = torch.rand(4, 5, 8)

    def cond(name: str, text: Tensor) -> dict[str, Any]:
        return {"uuid": name, "model_conds": {"c_crossattn": StandInText(text)}}

    one, two, window = cond("a", texts[:1]), cond("b", texts[1:2]), cond("c", texts)
    guider_conds = {"positive": [one, two, window], "negative": [cond("a", texts[2:3])]}

    def match(*conds: dict[str, Any]) -> tuple[str, list[int]]:
        found = match_list(list(conds), guider_conds)
        listed = guider_conds.get(found.role, [])
        return found.role, [index for c in found.conds for index, own in enumerate(listed) if own is c]

    assert match(cond("a", texts[:1].clone()), cond("b", texts[1:2])) == ("positive", [0, 1])
    assert match(cond("b", texts[1:2].clone())) == ("positive", [1])
    assert match(cond("a", texts[2:3].clone())) == ("negative", [0])
    assert match(cond("c", texts[[3, 1]])) == ("positive", [2])
    for others in ([cond("a", texts[3:])], [cond("d", texts[:1])], [cond("a", texts[:1]), cond("a", texts[2:3])], []):
        assert match(*others)[0] == "other"
    assert match_list(None, guider_conds).role == "other"


@pytest.mark.parametrize(("sigma", "on"), [(5.0, True), (4.0, True), (2.0, True), (5.1, False), (1.9, False)])
def test_a_scheduled_cond_is_on_between_its_noise_levels(sigma: float, on: bool) -> None:
    row = CondRow("positive", {"uuid": 1, "timestep_start": 5.0, "timestep_end": 2.0}, None, None, 77, None)
    assert row.is_on(sigma) is on and row.starts == [0]
    assert CondRow("positive", {"uuid": 1}, None, None, 77, None).is_on(sigma)


@pytest.mark.parametrize("tagged_first", [True, False])
def test_an_encoding_tagged_in_one_list_has_its_tag_there_only(tagged_first: bool) -> None:
    """The same encoding is tagged for the positive prompt and used without a tag for the negative prompt."""
    text = torch.ones(1, 5, 4)
    lists = [[{"cross_attn": text, TAG: PROMPT}], [{"cross_attn": text}]]
    first, second = lists if tagged_first else reversed(lists)
    assert Texts({"one": first, "other": second}).of(text) == (PROMPT, False)
