"""keep_mb = -1: the reference cache takes a share of the free memory, and gives it back when memory is short."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import comfy.model_management
import pytest
import torch

pytestmark = pytest.mark.usefixtures("as_node")

GB, MB = 2**30, 2**20
CPU, GPU = torch.device("cpu"), torch.device("cuda")
STEPS = 3


@pytest.fixture
def cache(pack):
    return pack.sampling.references.cache.REFERENCE_CACHE


@pytest.fixture
def budgets(pack):
    """The module under test."""
    return pack.sampling.references.cache_budget


@pytest.fixture
def memory(budgets, monkeypatch, tmp_path):
    """A machine of 32 GB without containers: `memory.available` is free, less what is cached since."""
    machine = SimpleNamespace(total=32 * GB, available=20 * GB)
    store = budgets.REFERENCE_CACHE
    monkeypatch.setattr(
        budgets.psutil,
        "virtual_memory",
        lambda: SimpleNamespace(total=machine.total, available=machine.available - store.nbytes_on(CPU)),
    )
    monkeypatch.setattr(budgets, "_CONTAINER", tmp_path)
    for name, value in (("cache_none", False), ("cache_ram", 0)):
        monkeypatch.setattr(budgets.args, name, value, raising=False)
    return machine


def passes_of(pack, monkeypatch):
    """A list that grows with each reference pass."""
    counted = []
    reference_pass = pack.sampling.references.reference_pass.ReferencePass
    real = reference_pass.through_unet
    monkeypatch.setattr(reference_pass, "through_unet", lambda *given: counted.append(1) or real(*given))
    return counted


def sample(graph, **schedule):
    model = graph.apply(graph.model, *graph.two_references(), schedule=graph.schedule(**schedule))
    return graph.sample(model, steps=STEPS)


def test_by_default_the_second_run_finds_the_references(graph, pack, cache, memory, monkeypatch):
    """So it does without a schedule node, and the pictures have the same bits."""
    passes = passes_of(pack, monkeypatch)
    expected = sample(graph, keep_mb=0)
    assert not cache.nbytes and len(passes) == STEPS
    assert torch.equal(sample(graph), expected) and len(passes) == 2 * STEPS
    assert torch.equal(sample(graph), expected) and len(passes) == 2 * STEPS
    without_schedule = graph.apply(graph.model, *graph.two_references())
    expected, before = graph.sample(without_schedule, steps=STEPS), len(passes)
    assert torch.equal(graph.sample(without_schedule, steps=STEPS), expected) and len(passes) == before


def test_half_of_what_is_free_beyond_the_headroom(graph, budgets, cache, memory):
    """What is cached already counts as free, so the budget is the same in each run."""
    room = (20 * GB - int(0.1 * 32 * GB)) // 2
    assert budgets.CacheBudget(-1, CPU).most == room
    sample(graph)
    assert cache.nbytes and budgets.CacheBudget(-1, CPU).most == room
    assert budgets.CacheBudget(7, CPU).most == budgets.CacheBudget(7, CPU).now() == 7 * MB
    assert budgets.CacheBudget(0, CPU).most == 0


def test_on_a_device_a_quarter(budgets, memory, monkeypatch):
    management = comfy.model_management
    monkeypatch.setattr(management, "get_free_memory", lambda device: {GPU: 9 * GB}[device])
    assert budgets.CacheBudget(-1, GPU).most == int(9 * GB - management.minimum_inference_memory()) // 4
    monkeypatch.setattr(management, "get_free_memory", lambda device: GB // 2)
    assert budgets.CacheBudget(-1, GPU).most == budgets.CacheBudget(-1, GPU).now() == 0


@pytest.mark.parametrize(
    ("total", "given", "headroom"),
    [
        (8, 0, 2),
        (32, 0, 3.2),
        (256, 0, 10),
        (32, [], 3.2),
        (32, 4.0, 4),
        (32, [6.0], 6),
        (32, [6.0, 9.0], 6),
        (8, [1.0], 2),
    ],
)
def test_what_comfyuis_own_cache_keeps_free_is_not_touched(budgets, memory, monkeypatch, total, given, headroom):
    """--cache-ram is a number in older versions, and a list in newer ones."""
    memory.total, memory.available = total * GB, 7 * GB
    monkeypatch.setattr(budgets.args, "cache_ram", given)
    assert budgets.spare_bytes(CPU) == 7 * GB - int(headroom * GB)


def test_without_a_cache_of_outputs_nothing_is_cached(graph, budgets, cache, memory, monkeypatch):
    monkeypatch.setattr(budgets.args, "cache_none", True)
    sample(graph)
    assert not cache.nbytes
    sample(graph, keep_mb=100)
    assert cache.nbytes


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_limit_of_a_container_counts(budgets, memory, tmp_path):
    """Of cgroups of either version; files that the system has read but can free at once are not used memory."""
    stat = f"anon 5\ninactive_file {GB}\n"
    write(tmp_path, memory__max="max\n", memory__current=f"{6 * GB}\n", memory__stat=stat)
    assert budgets.spare_bytes(CPU) == 20 * GB - int(0.1 * 32 * GB)
    write(tmp_path, memory__max=f"{10 * GB}\n")
    assert budgets.spare_bytes(CPU) == (10 - 6 + 1 - 2) * GB
    stat = f"total_inactive_file {GB}\n"
    used = {"memory__usage_in_bytes": f"{7 * GB}\n", "memory__stat": stat}
    write(tmp_path / "memory", memory__limit_in_bytes=f"{2**63 - 4096}\n", **used)
    assert budgets.spare_bytes(CPU) == (10 - 6 + 1 - 2) * GB
    write(tmp_path / "memory", memory__limit_in_bytes=f"{9 * GB}\n")
    assert budgets.spare_bytes(CPU) == (9 - 7 + 1 - 2) * GB


def test_a_run_that_begins_while_memory_is_short_caches_nothing(graph, cache, memory, caplog):
    """What is cached goes, and the picture is the same."""
    expected = sample(graph)
    assert cache.nbytes
    memory.available = 3 * GB
    with caplog.at_level(logging.INFO):
        assert torch.equal(sample(graph), expected)
    assert not cache.nbytes and "memory is short, so nothing is cached" in caplog.text


def test_a_little_pressure_halves_the_cache(graph, cache, memory):
    """Memory is short by a tenth of what is cached; then nine tenths could stay, and half of that does."""
    expected = sample(graph)
    everything = cache.nbytes
    memory.available = int(0.1 * 32 * GB) + everything * 9 // 10
    assert torch.equal(sample(graph), expected)
    assert 0 < cache.nbytes <= everything * 9 // 20


def test_memory_that_becomes_short_during_a_run(graph, pack, cache, memory, monkeypatch, caplog):
    """From the third pass on nothing is added, and what is cached goes."""
    expected = sample(graph, keep_mb=0)
    reference_pass = pack.sampling.references.reference_pass.ReferencePass
    real, sizes = reference_pass.through_unet, []

    def through_unet(*given):
        sizes.append(cache.nbytes)
        if len(sizes) == STEPS:
            memory.available = 3 * GB
        return real(*given)

    monkeypatch.setattr(reference_pass, "through_unet", through_unet)
    with caplog.at_level(logging.INFO):
        assert torch.equal(sample(graph), expected)
    assert 0 == sizes[0] < sizes[1] < sizes[2] and not cache.nbytes
    assert "MB more did not fit into the" in caplog.text


def test_memory_that_becomes_short_while_everything_is_found(graph, cache, memory, monkeypatch):
    expected = sample(graph)
    find = cache.find

    def then_short(*given):
        found = find(*given)
        memory.available = 3 * GB
        return found

    monkeypatch.setattr(cache, "find", then_short)
    assert torch.equal(sample(graph), expected) and not cache.nbytes


def test_references_that_are_tried_do_not_pile_up(graph, cache, memory):
    """After eight runs without them, their entries go."""
    sizes = []
    for seed in range(12):
        graph.sample(graph.apply(graph.model, graph.reference(seed=seed)), steps=1)
        sizes.append(cache.nbytes)
    assert sizes[:8] == [sizes[0] * (1 + number) for number in range(8)]
    assert set(sizes[7:]) == {sizes[7]}
