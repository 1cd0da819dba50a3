"""Arbitrary input gives a finite result, or an error that names the node and the input at fault.

That is a ValueError, or a SamplingError once sampling has begun. Nodes that show something always show it.
"""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .graph import box, picture

pytestmark = pytest.mark.usefixtures("as_node")

REPEATABLE = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
WORDS = st.sampled_from(
    ["hat", "scarf", "a red hat", "HAT", "(hat:1.3)", "hät", "帽子", "🎩", "embedding:x", "", " ", "\n", "a" * 300]
)
TEXTS = st.one_of(WORDS, st.text(max_size=40))


def usually(usual, other):
    """A strategy that draws from the first one in about nineteen cases of twenty, and else from the second."""
    return st.integers(0, 19).flatmap(lambda number: usual if number else other)


NOT_FINITE = st.sampled_from([float("nan"), float("inf"), float("-inf")])
WEIGHTS = usually(
    st.one_of(st.floats(0, 10), st.sampled_from([0.0, -1.0, 2.0])), st.one_of(st.floats(-99, 99), NOT_FINITE)
)
PARTS = usually(st.floats(0, 1), st.one_of(st.floats(-1, 2), NOT_FINITE))
NAMES = ["auto", "all", "finest", "output.3-5", "middle", "input.4,output.0.1", "input"]
SPECS = usually(st.sampled_from(NAMES), st.text(max_size=12))


@st.composite
def pictures(draw):
    """Some pictures of any size, and perhaps masks for them, which are sometimes wrong."""
    views, height, width = draw(st.integers(0, 3)), draw(st.integers(1, 90)), draw(st.integers(1, 90))
    channels = draw(st.sampled_from([3, 3, 3, 4, 1]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    image = torch.rand(views, height, width, channels, generator=generator)
    kind = draw(
        st.sampled_from(["none", "whole", "half", "half", "thin", "empty", "other size", "too many", "not a number"])
    )
    mask = torch.zeros(views, height, width)
    if kind == "none":
        return image, None
    if kind == "whole":
        mask += 1.0
    elif kind == "half":
        mask[:, : height // 2 + 1] = draw(st.floats(0.01, 1.0))
    elif kind == "thin":
        mask[:, height // 2, width // 2] = 1.0
    elif kind == "other size":
        mask = torch.ones(views, 2 * height, draw(st.integers(1, 90)))
    elif kind == "too many":
        mask = torch.ones(views + 1, height, width)
    elif kind == "not a number":
        mask += float("nan")
    return image, mask


def try_or_refuse(make, error=ValueError):
    """The result of `make`; None if it refuses with an error that names the node and the input."""
    try:
        return make()
    except error as refusal:
        assert re.match(r"MagicFace[A-Z]\w+: \w+(, \w+)*: ", str(refusal)), refusal
        return None


@settings(max_examples=150, **REPEATABLE)
@given(pictures(), TEXTS, TEXTS, st.sampled_from([0, 64, 96, 128, 63, -5, 5000]))
def test_any_reference(graph, shown, caption, concept, size):
    image, mask = shown
    size = size or 128  # 0 means the family's native size, which is slow
    reference = try_or_refuse(lambda: graph.reference(concept, image=image, mask=mask, caption=caption, size=size))
    if reference is not None:
        assert torch.isfinite(reference.latents).all()
        assert reference.latents.shape[0] == reference.masks.shape[0] == len(image)
        assert reference.masks.min() >= 0 and reference.masks.flatten(1).amax(1).min() > 0


@pytest.fixture(scope="module")
def run_ends():
    """Whether each run of `test_any_settings` finished: if nearly all inputs were refused, it would show nothing."""
    ends: list[bool] = []
    yield ends
    assert sum(ends) > 30, f"{sum(ends)} of {len(ends)} runs finished"


@settings(max_examples=150, **REPEATABLE)
@given(st.data())
def test_any_settings(graph, run_ends, data):
    """The whole way from reference to picture, with settings that are sometimes wrong or contradictory."""
    masked = st.sampled_from([None, box(96, 64, 0, 0, 60, 64), box(96, 64, 90, 3, 96, 9), 0.3 * torch.ones(1, 96, 64)])
    concept = data.draw(st.sampled_from(["hat", "scarf", "a hat"]))
    reference = graph.reference(concept, image=picture(1, 96, 64), mask=data.draw(masked), size=64)
    mask_settings = {
        "weight": data.draw(WEIGHTS),
        "injection_weight": data.draw(WEIGHTS),
        "resize": data.draw(st.sampled_from(["nearest", "area"])),
        "grow_px": data.draw(usually(st.integers(-9, 99), st.integers(-600, 600))),
        "feather_px": data.draw(usually(st.integers(0, 99), st.integers(-600, 600))),
        "invert": data.draw(usually(st.just(False), st.just(True))),
    }
    start, switch, end = sorted(data.draw(PARTS) for _ in range(3))
    plan = {
        "start": start,
        "switch": switch,
        "end": end,
        "semantic_guidance": data.draw(st.booleans()),
        "injection_blocks": data.draw(SPECS),
        "segmentation_blocks": data.draw(SPECS),
        "token_suppression": data.draw(PARTS),
        "foreground": data.draw(usually(st.sampled_from(["auto", "always", "never"]), st.text(max_size=5))),
        "keep_mb": data.draw(st.sampled_from([-1, 0, 1, 100])),
        "keep_on": data.draw(st.sampled_from(["main memory", "device"])),
    }
    text = data.draw(usually(st.sampled_from(["a man in a hat and a scarf", "a hat, " * 90 + "a scarf"]), TEXTS))
    sampling = {
        "cfg": data.draw(st.sampled_from([0.0, 1.0, 5.0, 30.0])),
        "steps": data.draw(st.integers(1, 2)),
        "size": (data.draw(st.integers(1, 10)), data.draw(st.integers(1, 10))),
    }

    reference = try_or_refuse(lambda: graph.mask_weight(reference, **mask_settings))
    schedule = try_or_refuse(lambda: graph.schedule(**plan))
    prompt = try_or_refuse(lambda: graph.prompt(text))
    if None in (reference, schedule, prompt):
        return
    model = try_or_refuse(lambda: graph.apply(graph.model, reference, schedule=schedule))
    if model is not None:
        latent = try_or_refuse(lambda: graph.sample(model, prompt, **sampling), graph.sampling_error)
        assert latent is None or torch.isfinite(latent).all()
        run_ends.append(latent is not None)


@settings(max_examples=40, **REPEATABLE)
@given(st.data())
def test_any_view(graph, data):
    """The nodes that show a run afterwards, and the choice of what it records."""
    number = st.integers(-4, 4)
    chosen = {
        "steps": data.draw(usually(st.sampled_from(["0", "-1", "0,1", "all"]), st.text(max_size=6))),
        "blocks": data.draw(usually(st.sampled_from(["auto", "output.3-5"]), SPECS)),
        "most_mb": data.draw(usually(st.integers(1, 64), st.integers(-9, 10**6))),
    }
    record = try_or_refuse(lambda: graph.record(**chosen))
    if record is None:
        return
    reference = graph.reference("hat", image=picture(1, 96, 64), size=64)
    flags = {"record": record, "strict": data.draw(st.booleans()), "live_regions": data.draw(st.booleans())}
    model = try_or_refuse(lambda: graph.apply(graph.model, reference, **flags))
    if model is None:
        return
    samples = try_or_refuse(lambda: graph.sample(model, steps=2, size=(8, 8)), graph.sampling_error)
    if samples is None:
        return
    latent = {"samples": samples}
    pixel = st.integers(-9, 99)
    query = {
        "query": data.draw(st.sampled_from(["regions", "pixel", "all"])),
        "x": data.draw(pixel),
        "y": data.draw(pixel),
    }
    views = {
        "MagicFaceSegmentationPreview": {"step": data.draw(number), "all_steps": data.draw(st.booleans())},
        "MagicFaceAttentionView": {"step": data.draw(number), "block": data.draw(SPECS), **query},
        "MagicFaceCorrespondence": {"step": data.draw(number), "block": data.draw(SPECS)},
    }
    for node, inputs in views.items():
        known = {item.id for item in graph.nodes[node].GET_SCHEMA().inputs}
        assert known >= set(inputs), f"{node} has {known}"
        assert torch.isfinite(graph.run(node, latent=latent, **inputs)[0]).all()
