"""The grounding losses, compared with values computed by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lab.training.grounding import START, RecordedAttention, noun_loss, thing_loss

TOKENS, SIDE, NOUN, PART = 5, 4, 2, 1


def test_the_recorded_attention_is_that_of_the_output() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 8, generator=generator)
    k, v = torch.randn(2, 2, TOKENS, 8, generator=generator)
    recorded = RecordedAttention()
    out = recorded(q, k, v, {"n_heads": 2})
    heads = [x.unflatten(-1, (2, 4)).transpose(1, 2) for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out, expected)
    assert recorded.maps[0].shape == (2, 6, TOKENS)
    torch.testing.assert_close(recorded.maps[0].sum(-1), torch.ones(2, 6))


def shares() -> torch.Tensor:
    """Shares of one picture: the left half is the part, the rest is background."""
    part = torch.zeros(1, 3, SIDE, SIDE)
    part[:, PART, :, :2] = 1
    part[:, 0, :, 2:] = 1
    return part


def attention_of(start: torch.Tensor, noun: torch.Tensor) -> torch.Tensor:
    attention = torch.zeros(1, SIDE * SIDE, TOKENS)
    attention[0, :, START], attention[0, :, NOUN] = start.flatten(), noun.flatten()
    return attention


NOUNS = (torch.tensor([0]), torch.tensor([NOUN]), torch.tensor([PART]))


def test_attention_to_its_own_part_costs_nothing() -> None:
    background, part = shares()[0, 0], shares()[0, PART]
    assert noun_loss([attention_of(background, part)] * 2, shares(), NOUNS).item() == 0


def test_attention_elsewhere_costs_its_squared_share() -> None:
    spread, background = torch.ones(SIDE, SIDE), shares()[0, 0]
    assert noun_loss([attention_of(background, spread)], shares(), NOUNS).item() == 0.25
    assert noun_loss([attention_of(spread, background)], shares(), NOUNS).item() == 0.25 + 1


def test_a_part_smaller_than_a_cell_may_get_all_attention() -> None:
    small = shares()
    small[:, PART] *= 0.1
    attention = attention_of(small[0, 0], (small[0, PART] > 0).float())
    assert noun_loss([attention], small, NOUNS).item() < 1e-9


def test_captions_without_nouns_have_a_background_loss_only() -> None:
    none = (torch.zeros(0, dtype=torch.long),) * 3
    attention = attention_of(torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE))
    assert noun_loss([attention], shares(), none).item() == 0.25


def test_coarser_blocks_use_averaged_masks() -> None:
    coarse = torch.zeros(1, 4, TOKENS)
    coarse[0, :, START], coarse[0, :, NOUN] = torch.tensor([0.0, 1, 0, 1]), torch.tensor([1.0, 0, 1, 0])
    assert noun_loss([coarse], shares(), NOUNS).item() == 0


def as_batch(attention: torch.Tensor) -> torch.Tensor:
    """(1, n, n) from (n, n)."""
    return attention[None] / attention.sum(-1)[None, :, None]


def test_self_attention_to_another_part_costs_its_squared_share() -> None:
    label = shares()[0].argmax(0).flatten()
    same = (label[:, None] == label).float()
    seen = torch.ones(1)
    assert thing_loss([as_batch(same)] * 2, shares(), seen).item() < 1e-12
    assert thing_loss([as_batch(torch.ones_like(same))], shares(), seen).item() == 0.25
    assert thing_loss([as_batch(1 - same)], shares(), seen).item() == 1
    assert thing_loss([as_batch(1 - same)], shares(), 0.25 * seen).item() == 0.25
