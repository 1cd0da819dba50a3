"""The role of a cond, its area, and its prompt tokens."""

from __future__ import annotations

import pytest
import torch
from magicface.sampling.conditioning.prompt import TAG, PromptTokens
from magicface.sampling.conditioning.roles import CondRow, Texts, known_conds
from torch import Tensor

PROMPT = PromptTokens("a prompt", (None, 1, 2, None, None), (0,))


class StandInText:
    """The text entry of a model's conds."""

    def __init__(self, cond: Tensor) -> None:
        self.cond = cond


@pytest.mark.parametrize(("index", "role"), [(0, "negative"), (1, "positive"), (2, "other")])
def test_a_role_is_decided_by_the_list_and_not_by_its_position(index: int, role: str) -> None:
    """There are three lists in another order, and the last one is a copy of the positive list."""
    cond = {"uuid": "a", "model_conds": {}, "area": (100, 9, 2, 4)}
    positive, negative = [cond], [dict(cond)]
    guider_conds = {"positive": positive, "negative": negative}
    known = known_conds([negative, positive, list(positive), None], guider_conds, Texts({}), (1, 4, 8, 12))
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
    row = known_conds([[copied]], {}, texts, (8, 12))[0, "a"]
    assert (row.tag, row.zeroed, row.length, row.starts) == (None, True, 9, [0])
    own = {"uuid": "a", "model_conds": {"c_crossattn": StandInText(prompt)}}
    row = known_conds([[own]], {}, texts, (8, 12))[0, "a"]
    assert (row.tag, row.zeroed, row.length, row.starts) == (PROMPT, False, 5, [0])


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
