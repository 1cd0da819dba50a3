"""One input in many forms: a mask as any node gives it, phrases in any order of sockets, a run cut at any step.

The result is that of the canonical form, or a refusal that names the input.
"""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from .graph import picture
from .steering import assert_same, follow, lead
from .test_any_input import REPEATABLE, try_or_refuse
from .test_sampling_forms import PIECES, sample_steps
from .test_words import found

pytestmark = pytest.mark.usefixtures("as_node")

HEIGHT, WIDTH = 96, 64


@st.composite
def boxes(draw):
    """(HEIGHT, WIDTH) mask of a box of some size."""
    mask = torch.zeros(HEIGHT, WIDTH)
    top, left = draw(st.integers(0, HEIGHT - 20)), draw(st.integers(0, WIDTH - 20))
    mask[top : top + draw(st.integers(18, 60)), left : left + draw(st.integers(18, 60))] = 1.0
    return mask


def with_floor(mask, data):
    return mask.clamp_min(data.draw(st.floats(0, 20 / 255)))[None]


def as_labels(mask, data):
    return mask[None] / data.draw(st.sampled_from([255, 65535]))


def doubled(mask, data):
    return mask.repeat_interleave(2, 0).repeat_interleave(2, 1)[None]


def in_another_type(mask, data):
    return mask[None].to(data.draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float64, torch.bool])))


def in_a_file(mask, data):
    """As a PNG file of 8 or 1 bits, or a palette."""
    file = io.BytesIO()
    image = Image.fromarray((mask * 255).byte().numpy()).convert(data.draw(st.sampled_from(["L", "1", "P", "RGB"])))
    image.save(file, "PNG")
    return torch.from_numpy(np.array(Image.open(file).convert("L"))).float()[None] / 255


FORMS = {
    "flat": lambda mask, data: mask,
    "a channel last": lambda mask, data: mask[None, ..., None],
    "a channel second": lambda mask, data: mask[None, None],
    "a picture": lambda mask, data: mask[None, ..., None].expand(1, HEIGHT, WIDTH, 3),
    "two": lambda mask, data: mask.expand(2, HEIGHT, WIDTH),
    "none is marked": lambda mask, data: torch.zeros(1, HEIGHT, WIDTH),
    "strided": lambda mask, data: mask.T.contiguous().T[None],
    "a floor": with_floor,
    "labels": as_labels,
    "twice the size": doubled,
    "another type": in_another_type,
    "a file": in_a_file,
}
REFUSED = {"a picture", "two", "none is marked"}


@settings(max_examples=120, **REPEATABLE)
@given(boxes(), st.sampled_from(sorted(FORMS)), st.data())
def test_any_form_of_a_mask(graph, mask, form, data):
    made = try_or_refuse(
        lambda: graph.reference(image=picture(1, HEIGHT, WIDTH), mask=FORMS[form](mask, data), size=64)
    )
    assert (made is None) == (form in REFUSED)
    assert made is None or torch.equal(made.masks, mask[None])


@settings(max_examples=20, **REPEATABLE)
@given(boxes())
def test_alpha_is_a_form_of_a_mask(graph, mask):
    cut_out = torch.cat((picture(1, HEIGHT, WIDTH), mask[None, ..., None]), dim=-1)
    assert torch.equal(graph.reference(image=cut_out, size=64).masks, mask[None])


PHRASES = ("hat", "red hat", "big red hat", "scarf", "wool scarf", "boy")


@settings(max_examples=60, **REPEATABLE)
@given(
    st.permutations(PHRASES).map(lambda phrases: phrases[:4]),
    st.permutations(PHRASES),
    st.sampled_from([" and a ", ", ", " (", " BREAK "]),
)
def test_any_order_of_sockets(graph, chosen, named, between):
    """Each phrase has the same words in any order, and none has words of another one."""
    positive = graph.prompt("a " + between.join(named[:5]))
    expected = dict(zip(sorted(chosen), found(graph, positive, *sorted(chosen)), strict=True))
    assert dict(zip(chosen, found(graph, positive, *chosen), strict=True)) == expected
    every = [position for positions in expected.values() for position in positions]
    assert len(every) == len(set(every))
    for phrase, positions in expected.items():
        assert bool(positions) or phrase not in named[:5] or any(phrase in other for other in chosen if other != phrase)


@pytest.mark.rounding
@settings(max_examples=6, **REPEATABLE)
@given(
    st.sets(st.integers(1, PIECES - 1)),
    st.sampled_from(["euler", "ddim", "dpm_2"]),
    st.sampled_from([0.2, 0.5, 0.8]),
    st.sampled_from([1, 2]),
)
def test_any_split(graph, splits, sampler, switch, batch):
    """Each evaluation of the pieces is that of the whole run."""
    model = graph.apply(graph.model, *graph.two_references(), schedule=graph.schedule(switch=switch))
    settings = {"sampler_name": sampler, "scheduler": "karras"}
    empty = {"samples": torch.zeros(batch, 4, 16, 16)}
    _, whole = lead(graph.pack, model, sample_steps(graph, 0, PIECES, **settings, latent_image=empty))
    made, piece = [], None
    for start, end in pairwise((0, *sorted(splits), PIECES)):
        sample = sample_steps(graph, start, end, piece, **settings, **({} if piece else {"latent_image": empty}))
        count = (end - start) if sampler != "dpm_2" else 2 * (end - start) - (end == PIECES)
        piece, evaluations = follow(graph.pack, model, sample, whole[len(made) : len(made) + count])
        made += evaluations
    assert_same(made, whole)
