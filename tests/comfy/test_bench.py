"""The benchmark on a small shape: the product equals the authors' way, and the measurements are what they claim."""

from __future__ import annotations

import json
from dataclasses import replace

import comfy.model_base
import pytest
import torch
from PIL import Image, ImageColor
from torch.overrides import TorchFunctionMode

from lab.bench import authors, bench, growth, measure, meters, report, rows, sizes, tables
from lab.bench import scene as scene_module
from lab.bench import whole_runs as whole_runs_module
from lab.bench.authors import Authors
from lab.bench.exactness import difference
from lab.bench.meters import PARTS, Parts, peak_bytes
from lab.bench.names import AUTHORS, CACHED, ROWS, UNPATCHED
from lab.bench.ratios import ratios
from lab.bench.sampled import ways_of
from lab.bench.scene import SHAPES, Scene
from lab.bench.tables import STAGES
from lab.bench.whole_runs import EXACT, FIRST, NEXT, PLAIN, whole_runs

pytestmark = pytest.mark.lab

MB = 2**20
STEPS = 3


@pytest.fixture(scope="module")
def scene():
    return Scene(SHAPES["tiny"], 16)


@pytest.fixture(scope="module")
def results(scene):
    """All measurements of one round."""
    said = []
    figures = measure.measure_shape(scene, 1, said.append, replace(measure.WHOLE, steps=STEPS))
    assert f"round 1 of 1: {CACHED}" in said
    return figures


@pytest.mark.parametrize("count", [1, 3])
def test_the_product_is_exact(scene, count):
    between = difference(scene, count)
    assert between.max_error < bench.MAX_ERROR
    assert between.equal_regions == 1.0


def test_an_error_is_detected(scene, monkeypatch):
    """The authors' way gets slightly larger values for references, which the comparison must show."""
    resized = authors.interpolate
    monkeypatch.setattr(authors, "interpolate", lambda *given, **mode: 1.01 * resized(*given, **mode))
    theirs = Authors(scene, 3, blocks="auto")
    ours = scene.run(scene.patched_model(3))
    prediction = theirs.evaluate(ours.latents[0], scene.levels["layout"][0], "layout", ours.regions[1])
    assert (prediction.cpu() - ours.predictions[0]).abs().max() > bench.MAX_ERROR * prediction.abs().max()


def test_the_authors_way_by_itself_gives_the_same_run(scene):
    """It continues from its own latents, with the product's regions so that no near tie counts: the runs are equal."""
    ours = scene.run(scene.patched_model(3))
    theirs = Authors(scene, 3, blocks="auto").run(steering=ours.regions)
    for one, other in zip(ours.predictions, theirs.predictions, strict=True):
        assert (one - other).abs().max() < 1e-3 * one.abs().max()
    assert (ours.predictions[-1] - scene.run(scene.model).predictions[-1]).abs().max() > 0.1


def test_every_stage_is_measured(results):
    missing = {"host_waits"} if results.host_waits is None else set()
    assert set(ratios(results)) == set(tables.MEANT) - missing
    for name, times in results.times.items():
        assert all(len(times.by_stage[stage]) == 1 for stage in STAGES), name
    assert set(results.peak_bytes) == set(results.times)
    assert all(len(points) >= 3 for points in results.curves.values())
    assert results.host_waits in ((0, 1) if torch.cuda.is_available() else (None,))


class Clock(TorchFunctionMode):
    """A clock that advances with the amount of attention computed, and a little on every reading."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.scaled_dot_product_attention:
            q, k = args[:2]
            self.now += q.shape[:-1].numel() * k.shape[-2]
        return function(*args, **(kwargs or {}))

    def read(self) -> float:
        """Seconds."""
        self.now += 1.0
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Replaces the machine's clock."""
    with Clock() as clock:
        for module in (meters, scene_module, whole_runs_module):
            monkeypatch.setattr(module, "timer", clock.read)
        yield clock


def test_times_of_parts_add_up_to_less_than_the_whole(scene, clock):
    """The first evaluation is left out. Each part takes time, and the UNet takes as much as without the method."""
    parts = Parts(scene.pack)
    with parts.watch():
        scene.run(scene.patched_model(1))
        assert not any(parts.seconds.values())
        seconds = scene.run(scene.patched_model(1), around=parts.whole).seconds
    assert set(parts.seconds) == set(PARTS) and all(part > 0 for part in parts.seconds.values())
    assert sum(parts.seconds.values()) < sum(sum(its) for its in seconds.values())
    unpatched = sum(sum(its) for its in scene.run(scene.model).seconds.values())
    assert parts.seconds["UNet"] == pytest.approx(unpatched, rel=0.01)


def test_measured_memory_is_that_of_tensors(results):
    def work():
        kept = torch.ones(3, MB, dtype=torch.uint8)
        del kept
        return torch.ones(5, MB, dtype=torch.uint8)

    assert 5 * MB <= peak_bytes(work) < 5.5 * MB
    assert results.peak_bytes["5"] > results.peak_bytes["1"] > 0
    assert results.peak_bytes[AUTHORS] > results.peak_bytes["3"] > results.peak_bytes[CACHED]


def test_cached_references_are_found_where_they_are_measured(scene, monkeypatch):
    passes = []
    reference_pass = scene.pack.sampling.references.reference_pass.ReferencePass
    real = reference_pass.through_unet
    monkeypatch.setattr(reference_pass, "through_unet", lambda *given: passes.append(1) or real(*given))
    cold = scene.run(scene.patched_model(3))
    every = len(passes)
    warm = ways_of(scene)[CACHED]()(0, None)
    assert len(passes) == 2 * every
    assert all(torch.equal(a, b) for a, b in zip(cold.predictions, warm.predictions, strict=True))
    scene.pack.sampling.references.cache.REFERENCE_CACHE.clear()


def test_exponents_of_known_curves():
    points = [(1.0, 3.0), (2.0, 12.0), (4.0, 48.0)]
    assert growth.exponent(points) == pytest.approx(2.0)
    assert growth.exponent([(1.0, 5.0), (9.0, 5.0), (2.0, 5.0)]) == pytest.approx(0.0)


def test_reports_have_every_figure(results, tmp_path):
    figures = report.as_json(results)["summary"]
    text = "\n".join(line for lines in tables.tables(figures).values() for line in lines)
    assert all(f"| {name} |" in text for name in (*ratios(results), *PARTS, CACHED, *results.curves))
    assert json.loads(json.dumps(figures))["ratios"]["max_error"] < bench.MAX_ERROR
    report.plot(results, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size == (800, 900)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(100000)}
    assert {ImageColor.getrgb(colour) for colour in (report.INK, report.LINE)} <= colours


def test_the_rows_that_references_need_end_at_the_last_injection_block(scene, monkeypatch):
    """As many UNet calls of the same size as the reference pass makes, and as many layers; nothing else runs."""
    calls = []
    real = comfy.model_base.BaseModel.apply_model

    def counted(self, x, *given, **options):
        blocks = []
        layers = [each for each in self.diffusion_model.modules() if isinstance(each, torch.nn.Linear)]
        hooks = [each.register_forward_pre_hook(lambda *_: blocks.append(1)) for each in layers]
        calls.append((tuple(x.shape), blocks))
        try:
            return real(self, x, *given, **options)
        finally:
            for hook in hooks:
                hook.remove()

    monkeypatch.setattr(comfy.model_base.BaseModel, "apply_model", counted)
    found = ways_of(scene)[ROWS]()(0, None)
    of_rows = [(shape, len(blocks)) for shape, blocks in calls]
    assert len(found.seconds["layout"]) == 1 and len(found.seconds["blend"]) == 2
    calls.clear()
    scene.run(scene.patched_model(3))
    assert [(shape, len(blocks)) for shape, blocks in calls if shape[0] == 3] == of_rows
    assert len(of_rows) == 4
    monkeypatch.setattr(rows.Rows, "_stop", lambda _, q, k, v, extra: torch.zeros_like(q))
    with pytest.raises(RuntimeError, match="did not reach"):
        ways_of(scene)[ROWS]()(0, None)


def test_the_first_picture_finds_an_empty_cache_and_the_next_one_what_it_left(scene, clock):
    caching = scene.schedule(cache_mb=64)
    first = whole_runs(scene, 0, STEPS, caching)
    whole_runs_module.seconds_of(scene, scene.patched_model(3, schedule=caching), 0, STEPS)
    assert whole_runs(scene, 0, STEPS, caching) == first
    assert first[PLAIN] < first[NEXT] < 0.8 * first[FIRST]
    refreshed = whole_runs(scene, 0, 20, scene.schedule(cache_mb=64, refresh=0.17))
    assert refreshed[NEXT] < refreshed[FIRST] < 0.8 * refreshed[EXACT]
    computed = whole_runs(scene, 0, STEPS, scene.schedule())
    assert computed[PLAIN] == first[PLAIN] and computed[NEXT] > 1.2 * first[NEXT]


def test_figures_are_written_after_each_measurement(scene, tmp_path):
    """What is measured so far is in the file, whose ratios have what can be computed of it."""
    file = tmp_path / "figures.json"
    written = bench.Report(file, {"shapes": {}})
    seen = []

    def save(found):
        written.add("tiny", found)
        seen.append(json.loads(file.read_text()))

    plan = replace(measure.QUICK, exact_side_lat=None, steps=1, ways=(UNPATCHED, "3", ROWS))
    measure.measure_shape(scene, 2, lambda what: None, plan, save)
    assert [len(figures["shapes"]["tiny"]["seconds"]) for figures in seen] == [1, 2, 3, 3, 3, 3, 3, 3]
    assert [set(figures["ratios"]) for figures in seen[:2]] == [set(), {"cold_n3"}]
    assert {"first_n3", "next_n3", "floor_n3", "cold_n3", "segmentation"} < set(seen[3]["ratios"])
    assert not {"warm_n3", "max_error", "authors_over_ours_n3"} & set(seen[-1]["ratios"])
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_memory_measured_with_the_times_is_that_measured_alone(scene, results):
    plan = replace(measure.LARGE, ways=(UNPATCHED, "3"))
    found = measure.measure_shape(scene, 1, lambda what: None, plan)
    assert found.peak_bytes == {name: results.peak_bytes[name] for name in (UNPATCHED, "3")}


def test_plans_name_ways_that_exist(scene):
    for plan in (measure.QUICK, measure.LARGE):
        assert list(measure.chosen(scene, plan)) == list(plan.ways)


def test_a_loss_of_exactness_fails(results, scene, monkeypatch, capsys):
    """Only a loss of exactness makes the benchmark fail; slowness does not."""
    monkeypatch.setattr(bench, "Scene", lambda *_: scene)
    monkeypatch.setattr(bench, "measure_shape", lambda *_: results)
    assert bench.main(["tiny"], 1, None, None) == 0
    monkeypatch.setattr(bench, "MAX_ERROR", 0.0)
    assert bench.main(["tiny"], 1, None, None) == 1
    assert bench.main(["huge"], 1, None, None) == 1
    said = capsys.readouterr()
    assert "not exact" in said.err and "no shape huge; there are: tiny, narrow, full" in said.err


def test_the_cost_of_sizes_is_told_in_seconds_and_memory(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sizes, "SHAPE", "tiny")
    monkeypatch.setattr(sizes, "whole_runs", lambda scene, seed: whole_runs(scene, seed, 2))
    file = tmp_path / "figures.json"
    assert sizes.main(file, 1, (16, 32)) == 0
    found = json.loads(file.read_text())["sizes"]
    small, large = found.values()
    assert set(small["seconds"]) >= {PLAIN, FIRST, NEXT} and small["authors_over_ours"] > 0
    assert large["memory_mb"] > small["memory_mb"] > 0
    # Half-covered references: four times the tokens.
    assert large["cached_mb"] == pytest.approx(4 * small["cached_mb"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| 128 x 128 |") and rows[2].startswith("| 256 x 256 |")
    assert len({line.count("|") for line in rows}) == 1
