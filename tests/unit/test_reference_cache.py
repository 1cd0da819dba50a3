"""The reference cache, and equality of its keys."""

from __future__ import annotations

import gc

import pytest
import torch
from magicface.attention.blocks import Block
from magicface.attention.kv import ViewKV
from magicface.sampling.references import cache
from magicface.sampling.references.cache import GroupKV, ReferenceCache
from magicface.sampling.references.identity import IdentityKey, content, identity

BLOCK = Block("output", 3, 0, 2)
KILOBYTE = 1024
CPU, DEVICE = torch.device("cpu"), torch.device("meta")


class Model:
    """An object that weak references can refer to."""


def group(kilobytes: int = 1) -> GroupKV:
    """Keys and values of this size."""
    half = torch.zeros(1, 128 * kilobytes, 1)
    return {BLOCK: [ViewKV(half, half.clone(), (4, 4))]}


def test_a_run_caches_what_fits_beside_what_it_uses() -> None:
    store, model = ReferenceCache(), Model()
    first = store.open(3 * KILOBYTE)
    assert [store.add(key, model, group(), CPU, first, 3 * KILOBYTE) for key in "abcd"] == [True, True, True, False]
    assert store.nbytes == 3 * KILOBYTE and store.find("d", first) is None

    second = store.open(3 * KILOBYTE)
    assert store.find("a", second) is not None
    assert not store.add("e", model, group(), CPU, second, 3 * KILOBYTE)  # the first run may be repeated

    third = store.open(3 * KILOBYTE)
    assert store.add("e", model, group(), CPU, third, 3 * KILOBYTE)  # instead of b, the oldest of the first run
    assert not store.add("f", model, group(3), CPU, third, 3 * KILOBYTE)
    assert [store.find(key, third) is not None for key in "abce"] == [True, False, True, True]
    assert not store.add("g", model, group(4), CPU, store.open(3 * KILOBYTE), 3 * KILOBYTE)
    assert store.nbytes == 3 * KILOBYTE


def test_adding_the_same_key_again_takes_no_more_room() -> None:
    store, model = ReferenceCache(), Model()
    run = store.open(KILOBYTE)
    assert all(store.add("a", model, group(), CPU, run, KILOBYTE) for _ in range(3))
    assert not store.add("a", model, group(2), CPU, run, KILOBYTE)
    assert store.nbytes == KILOBYTE and store.find("a", run) is not None


def on_device(store: ReferenceCache, keys: str, model: Model, run: int, kilobytes: int = 1) -> None:
    """Add entries on a device that is not main memory."""
    for key in keys:
        assert store.add(key, model, group(kilobytes), DEVICE, run, 99 * KILOBYTE)


def from_device(given: GroupKV, device: torch.device) -> GroupKV:
    """Entries on another device: those of the test's device have no data, so these are new."""
    return {name: [ViewKV(torch.zeros_like(v.k, device=device), torch.zeros_like(v.v, device=device), v.grid)
                   for v in views] for name, views in given.items()}  # fmt: skip


def test_entries_of_one_model_leave_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of one model move to main memory; those of another model stay."""
    store, one, other = ReferenceCache(), Model(), Model()
    run = store.open(9 * KILOBYTE)
    on_device(store, "a", one, run)
    on_device(store, "b", other, run)
    assert store.nbytes_on(DEVICE) == 2 * KILOBYTE and store.nbytes_on(CPU) == 0
    monkeypatch.setattr(cache, "move", from_device)
    store.to_main_memory(one, KILOBYTE)
    assert store.nbytes_on(DEVICE) == store.nbytes_on(CPU) == KILOBYTE
    found = [store.find(key, run) for key in "ab"]
    assert [each[BLOCK][0].k.device.type for each in found if each] == ["cpu", "meta"]


def test_entries_that_main_memory_has_no_room_for_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were used last stay; what is in main memory already is not counted again."""
    store, model = ReferenceCache(), Model()
    run = store.open(99 * KILOBYTE)
    assert store.add("here", model, group(5), CPU, run, 99 * KILOBYTE)
    on_device(store, "abc", model, run)
    store.find("a", run)
    monkeypatch.setattr(cache, "move", from_device)
    store.to_main_memory(model, 2 * KILOBYTE)
    assert store.nbytes_on(CPU) == store.nbytes == 7 * KILOBYTE
    assert [store.find(key, run) is not None for key in ("here", *"abc")] == [True, True, False, True]


def with_three_entries(model: Model) -> tuple[ReferenceCache, int]:
    """A cache of a, b and c, of which a was used last, and its run."""
    store = ReferenceCache()
    run = store.open(9 * KILOBYTE)
    for key in "abc":
        store.add(key, model, group(), CPU, run, 9 * KILOBYTE)
    store.find("a", run)
    return store, run


def test_a_cache_shrinks_by_what_was_used_longest_ago() -> None:
    model = Model()
    store, run = with_three_entries(model)
    store.shrink(3 * KILOBYTE)
    assert store.nbytes == 3 * KILOBYTE
    store.shrink(2 * KILOBYTE)
    assert [store.find(key, run) is not None for key in "abc"] == [True, False, True]
    store.shrink(0)
    assert store.nbytes == 0


def test_a_cache_forgets_what_eight_runs_did_not_use() -> None:
    store, model = ReferenceCache(), Model()
    first = store.open(9 * KILOBYTE, forget=True)
    store.add("a", model, group(), CPU, first, 9 * KILOBYTE)
    store.add("b", model, group(), CPU, first, 9 * KILOBYTE)
    store.find("b", store.open(9 * KILOBYTE, forget=True))
    for _ in range(6):
        store.open(9 * KILOBYTE, forget=True)
    assert store.nbytes == 2 * KILOBYTE
    last = store.open(9 * KILOBYTE, forget=True)
    assert store.find("a", last) is None and store.find("b", last) is not None
    for _ in range(20):
        store.open(9 * KILOBYTE)
    assert store.nbytes == KILOBYTE  # who chooses a size keeps what fits


def test_entries_without_room_are_not_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "move", lambda *_: pytest.fail("moved"))
    store = ReferenceCache()
    assert not store.add("a", Model(), group(2), CPU, store.open(KILOBYTE), KILOBYTE)


def test_a_run_with_less_room_drops_the_oldest() -> None:
    model = Model()
    store, run = with_three_entries(model)
    store.open(2 * KILOBYTE)
    assert store.nbytes == 3 * KILOBYTE
    store.open(2 * KILOBYTE)
    assert [store.find(key, run) is not None for key in "abc"] == [True, False, True]
    store.open(0)
    assert store.nbytes == 0


def test_entries_are_dropped_with_their_model_even_while_the_cache_is_locked() -> None:
    store, one, other = ReferenceCache(), Model(), Model()
    run = store.open(9 * KILOBYTE)
    store.add("a", one, group(), CPU, run, 9 * KILOBYTE)
    store.add("b", other, group(2), CPU, run, 9 * KILOBYTE)
    del one
    gc.collect()
    assert store.nbytes == 2 * KILOBYTE
    with store.locked():
        del other
        gc.collect()
    assert store.nbytes == 0


def test_an_identity_key_equals_the_same_living_object_only() -> None:
    one, other = Model(), Model()
    assert IdentityKey(one) == IdentityKey(one) and hash(IdentityKey(one)) == hash(IdentityKey(one))
    assert IdentityKey(one) != IdentityKey(other)
    before = IdentityKey(one)
    del one
    gc.collect()
    assert before != before
    assert IdentityKey((1, 2)) != IdentityKey((1, 2))


def test_identity_keys_compare_readable_values() -> None:
    model = Model()
    given = {"a": [1, "x", None, torch.float16], "b": (model, 2.0)}
    assert identity(given) == identity({"a": [1, "x", None, torch.float16], "b": (model, 2.0)})
    for other in ({"a": [1], "b": (model, 2.0)}, {**given, "b": (Model(), 2.0)}, {**given, "c": 1}, {"a": given["a"]}):
        assert identity(given) != identity(other)
    assert identity(1) != identity(True) and identity(1.0) != identity(1)
    assert hash(identity(given)) == hash(identity(given))


class Holder:
    """An object that holds a tensor, as ComfyUI's conds do."""

    def __init__(self, cond: torch.Tensor) -> None:
        self.cond = cond


def test_content_keys_depend_on_every_bit() -> None:
    base = torch.arange(6.0)
    things = [
        base,
        base + torch.tensor([0, 0, 0, 0, 0, 1e-6]),
        base.view(2, 3),
        base.half(),
        base.bfloat16(),
        Holder(base),
        [base],
        (base,),
        {"cond": base},
        "0",
        0,
        None,
        [[1], 2],
        [1, [2]],
    ]
    digests = [content(thing) for thing in things]
    assert len(set(digests)) == len(things)
    assert content(Holder(base)) == content(Holder(base.clone())) == content(Holder(torch.stack([base, base]).T[:, 0]))


@pytest.mark.parametrize("thing", [lambda: 0, object(), [object()], {1, 2}])
def test_unreadable_content_is_refused(thing: object) -> None:
    with pytest.raises(TypeError, match="cannot be read"):
        content(thing)
