"""Results of runs are found by the latent that the run returned; region histories serve as an example."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from magicface.sampling.latent_store import LatentStore, fingerprint
from magicface.sampling.regions.history import RegionHistory, StepRegions
from torch import Tensor

SHAPE = (4, 16, 16)


def some_latent(seed: int, images: int = 1, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """A random latent with a realistic range of values."""
    return 5 * torch.randn(images, *shape, generator=torch.Generator().manual_seed(seed))


def history_of(name: str, images: int = 1, steps: int = 1) -> RegionHistory:
    """A history that is recognised by its concept's name."""
    maps = torch.zeros(images, 8, 8, dtype=torch.int64)
    return RegionHistory((name,), [StepRegions(step, maps + step, maps == 0).compact() for step in range(steps)])


def name_of(found: list[tuple[RegionHistory, int]] | None) -> str | None:
    """The name of the history found for a latent of one image, or None."""
    return None if found is None else found[0][0].concept_names[0]


def test_a_latent_finds_its_result() -> None:
    store = LatentStore(max_bytes=64 * 2**20)
    latents = {name: some_latent(seed, images=2) for seed, name in enumerate(("first", "second", "third"))}
    for name, latent in latents.items():
        store.add(history_of(name, images=2, steps=3), [latent])
    for name, latent in latents.items():
        found = store.find(latent)
        assert found is not None
        assert [(history.concept_names, index) for history, index in found] == [((name,), 0), ((name,), 1)]
        assert [step.step for step in found[0][0].steps] == [0, 1, 2]
        assert found[0][0].steps[2].concepts.unique().tolist() == [2]


def test_an_image_of_a_batch_is_found_by_its_index() -> None:
    store = LatentStore(max_bytes=64 * 2**20)
    latent = some_latent(1, images=3)
    store.add(history_of("batch", images=3), [latent])
    other = some_latent(2)
    store.add(history_of("single"), [other])
    found = store.find(torch.cat((latent[2:], other, latent[:1])))
    assert found is not None
    assert [(history.concept_names[0], index) for history, index in found] == [
        ("batch", 2),
        ("single", 0),
        ("batch", 0),
    ]


def test_unknown_latents_are_not_found() -> None:
    store = LatentStore(max_bytes=64 * 2**20)
    latent = some_latent(1, images=2)
    assert store.find(latent) is None
    store.add(history_of("known", images=2), [latent])
    assert store.find(some_latent(2)) is None
    assert store.find(torch.cat((latent[:1], some_latent(2)))) is None
    assert store.find(1.01 * latent) is None and store.find(-latent) is None
    touched = latent[:1].clone()
    touched[0, 3, 15, 15] += 1.0
    assert store.find(touched) is None


def test_the_shape_is_part_of_the_fingerprint() -> None:
    store = LatentStore(max_bytes=64 * 2**20)
    latent = torch.zeros(1, 4, 8, 16)
    store.add(history_of("wide"), [latent])
    assert name_of(store.find(latent)) == "wide"
    assert store.find(latent.reshape(1, 4, 16, 8)) is None
    assert store.find(latent[..., :8]) is None
    assert store.find(torch.zeros(1, 16, 8, 4)) is None


@pytest.mark.parametrize("stored_as", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("given_as", [torch.float32, torch.float16, torch.bfloat16])
def test_a_latent_is_found_in_another_precision(stored_as: torch.dtype, given_as: torch.dtype) -> None:
    """Latents may be cast in a graph, and cast back."""
    store = LatentStore(max_bytes=64 * 2**20)
    latent = some_latent(1, images=2)
    latent[0, 0, 0, :4] = torch.tensor([0.0, 1e-7, 1.00390625, -3e-9])  # the third is between two bfloat16 values
    store.add(history_of("known", images=2), [latent.to(stored_as)])
    store.add(history_of("other", images=2), [some_latent(2, images=2)])
    for given_latent in (latent.to(given_as), latent.to(given_as).float()):
        found = store.find(given_latent)
        assert found is not None
        assert [(history.concept_names[0], index) for history, index in found] == [("known", 0), ("known", 1)]


@given(value=st.floats(2.0**-14, 60000.0, width=32), dtype=st.sampled_from([torch.float16, torch.bfloat16]))
def test_any_value_is_recognised_after_a_cast(value: float, dtype: torch.dtype) -> None:
    store = LatentStore(max_bytes=64 * 2**20)
    latent = torch.full((1, 1, 1, 2), value)
    store.add(history_of("known"), [latent])
    assert store.find(latent.to(dtype)) is not None
    assert store.find(-latent) is None


def test_the_nearest_of_two_similar_latents_is_found() -> None:
    store = LatentStore(max_bytes=64 * 2**20)
    latent = some_latent(1)
    store.add(history_of("exact"), [latent])
    store.add(history_of("near"), [latent * (1 + 1e-4)])
    assert name_of(store.find(latent)) == "exact"
    assert name_of(store.find(latent * (1 + 1e-4))) == "near"


def test_the_latest_of_equal_runs_is_found() -> None:
    store = LatentStore(max_bytes=64 * 2**20)
    latent = some_latent(1)
    for name in ("first", "second"):
        store.add(history_of(name), [latent])
        assert name_of(store.find(latent)) == name
    store.add(history_of("third"), [latent.half().float()])
    assert name_of(store.find(latent.half())) == "third"


def test_the_denoised_latent_is_found_too() -> None:
    store = LatentStore(max_bytes=64 * 2**20)
    samples, denoised = some_latent(1), some_latent(2)
    store.add(history_of("run"), [samples, denoised])
    store.add(history_of("other"), [some_latent(3)])
    assert name_of(store.find(samples)) == name_of(store.find(denoised)) == "run"


def test_the_least_recently_used_result_is_dropped_first() -> None:
    latents = [some_latent(seed) for seed in range(4)]
    one = LatentStore(max_bytes=64 * 2**20)
    one.add(history_of("0"), [latents[0]])
    assert one.nbytes == 4 * (3 + 1024) + 2 * 8 * 8
    store = LatentStore(max_bytes=3 * one.nbytes)
    for number in range(3):
        store.add(history_of(str(number)), [latents[number]])
    assert store.nbytes == 3 * one.nbytes
    assert name_of(store.find(latents[0])) == "0"
    store.add(history_of("3"), [latents[3]])
    assert store.nbytes == 3 * one.nbytes
    assert [name_of(store.find(latent)) for latent in latents] == ["0", None, "2", "3"]


def test_the_bound_holds_except_for_the_last_run() -> None:
    store = LatentStore(max_bytes=10_000)
    for seed in range(5):
        store.add(history_of(str(seed)), [some_latent(seed)])
        assert store.nbytes <= 10_000
    large = history_of("large", steps=200)
    store.add(large, [some_latent(9)])
    assert store.nbytes > 10_000
    assert name_of(store.find(some_latent(9))) == "large"
    assert store.find(some_latent(4)) is None


def test_histories_are_small_and_share_nothing_with_the_run() -> None:
    maps = torch.tensor([[[0, 1], [-1, 9]]])
    foreground = torch.tensor([[[True, False], [True, True]]])
    given_history = RegionHistory(("hat",), [StepRegions(4, maps, foreground).compact()])
    store = LatentStore(max_bytes=64 * 2**20)
    latent = some_latent(1)
    store.add(given_history, [latent])
    expected = latent.clone()
    maps.zero_()
    foreground.zero_()
    latent.zero_()
    found = store.find(expected)
    assert found is not None
    history = found[0][0]
    assert (history.concept_names, [step.step for step in history.steps]) == (("hat",), [4])
    assert history.steps[0].concepts.tolist() == [[[0, 1], [-1, 9]]]
    assert history.steps[0].foreground.tolist() == [[[True, False], [True, True]]]
    assert history.nbytes == 8


def test_fingerprints_are_bounded_and_cover_the_latent() -> None:
    latent = torch.arange(2 * 4 * 64 * 64, dtype=torch.float32).view(2, 4, 64, 64)
    prints = fingerprint(latent)
    assert prints.shape == (2, 4096 + 3)
    assert prints[:, :3].tolist() == [[4, 64, 64]] * 2
    assert prints[:, 3].tolist() == [0, 16384] and prints[:, -1].tolist() == [16383, 32767]
    assert (prints[:, 3:].diff(dim=1) >= 3).all() and (prints[:, 3:].diff(dim=1) <= 5).all()
    assert fingerprint(latent[:, :1, :2, :2])[0].tolist() == [1, 2, 2, 0, 1, 64, 65]
