"""Attention snapshots and the nodes that show them; the regions in the sampler's own preview."""

from __future__ import annotations

import re

import comfy.utils
import pytest
import torch

import nodes as core_nodes

from .graph import box, call, picture

pytestmark = pytest.mark.usefixtures("as_node")


@pytest.fixture(autouse=True)
def clear_store(graph):
    """Clear the store, so that what it holds does not look like a leak to later tests."""
    yield
    store = graph.pack.sampling.snapshots.ATTENTION_STORE
    store.clear()


def snapshots_of(graph, samples):
    """The stored snapshots of a latent's run: {(step, block name): (stage name, snapshot)}, or None."""
    found = graph.pack.sampling.snapshots.ATTENTION_STORE.find(samples)
    if found is None:
        return None
    record = found[0][0]
    return {(step, str(block)): (record.stages[step].name, found) for (step, block), found in record.snapshots.items()}


def sample(graph, references=None, record=None, schedule=None, **inputs):
    model = graph.apply(graph.model, *(references or graph.two_references()), record=record, schedule=schedule)
    return graph.sample(model, **inputs)


def test_nothing_is_recorded_unless_requested(graph):
    samples = sample(graph, seed=41)
    assert snapshots_of(graph, samples) is None
    note = graph.note("MagicFaceAttentionView", latent={"samples": samples})
    assert re.match(r"latent: no attention was recorded .* Record", note)


@pytest.mark.parametrize("sampler_name", ["euler", "heun"])
def test_the_chosen_steps_and_blocks_are_recorded_and_change_nothing(graph, sampler_name):
    record = graph.record(steps="0, -1", blocks="output.3.0, output.0.1")
    schedule = graph.schedule(switch=0.5)
    samples = sample(graph, record=record, schedule=schedule, sampler_name=sampler_name, seed=42)
    assert torch.equal(samples, sample(graph, schedule=schedule, sampler_name=sampler_name, seed=42))
    found = snapshots_of(graph, samples)
    names = ("output.0.1", "output.3.0")
    assert {key: stage for key, (stage, _) in found.items()} == {
        **{(0, name): "LAYOUT" for name in names},
        **{(2, name): "BLEND" for name in names},
    }
    assert found[0, "output.3.0"][1].grid == (8, 8) and found[0, "output.0.1"][1].grid == (4, 4)


def test_a_snapshot_has_the_queries_and_keys_of_the_block(graph):
    """A patch of another pack sees the same queries and own keys in the last evaluation of the step."""
    seen = {}

    def spy(q, k, v, extra_options):
        if extra_options["block"] == ("output", 3) and extra_options["block_index"] == 0:
            row = extra_options["cond_or_uncond"].index(0)
            images = len(q) // len(extra_options["cond_or_uncond"])
            rows = slice(row * images, (row + 1) * images)
            seen.setdefault(float(extra_options["sigmas"][0]), (q[rows].clone(), k[rows].clone()))
        return q, k, v

    model = graph.model.clone()
    model.set_model_attn1_patch(spy)
    model = graph.apply(model, *graph.two_references(), record=graph.record(steps="1", blocks="output.3.0"))
    samples = graph.sample(model, batch=2, seed=43)
    sigma = sorted(seen, reverse=True)[1]
    snapshot = snapshots_of(graph, samples)[1, "output.3.0"][1]
    # The patch sees the inputs of the block's projections.
    attn1 = graph.model.model.diffusion_model.output_blocks[3][1].transformer_blocks[0].attn1
    for stored, project, given in zip((snapshot.q, snapshot.k), (attn1.to_q, attn1.to_k), seen[sigma], strict=True):
        torch.testing.assert_close(stored.float(), project(given), rtol=1e-3, atol=1e-3)


def test_queries_of_a_region_attend_to_their_own_reference(graph):
    record = graph.record(steps="2", blocks="output.3.0")
    samples = sample(graph, record=record, schedule=graph.schedule(switch=0.0), batch=2, seed=44)
    snapshot = snapshots_of(graph, samples)[2, "output.3.0"][1]
    # Step 2 uses the regions that step 1 found.
    regions = [steps[1] for steps in graph.regions_by_step(samples)]
    for labels, expected in zip(snapshot.rule.labels, regions, strict=True):
        assert torch.equal(labels.view(8, 8).long(), expected)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"steps": "3"}, r"MagicFaceAttentionRecord: steps: this run has 3 steps and so none of 3; choose from 0 to 2"),
        ({"steps": "7, -4"}, r"MagicFaceAttentionRecord: steps: this run has 3 steps and so none of 7, -4"),
        ({"blocks": "input.4"}, r"MagicFaceApply: record: blocks: no block 'input.4'; there are output.0"),
        ({"steps": "one"}, r"MagicFaceAttentionRecord: steps: is 'one'; give whole numbers"),
        ({"blocks": " "}, r"MagicFaceAttentionRecord: blocks: is empty"),
        ({"most_mb": 0}, r"MagicFaceAttentionRecord: most_mb: is 0"),
    ],
)
def test_bad_choices_are_refused_by_name(graph, record, message):
    with pytest.raises((ValueError, graph.sampling_error), match=message):
        sample(graph, record=graph.record(**record))


def test_steps_that_a_run_lacks_are_left_out(graph):
    """One model may be used by samplers with different numbers of steps."""
    samples = sample(graph, record=graph.record(steps="1, 15", blocks="output.3.0"), seed=53)
    assert list(snapshots_of(graph, samples)) == [(1, "output.3.0")]


def test_memory_is_bounded(graph, monkeypatch, caplog):
    snapshots = graph.pack.sampling.snapshots
    record = graph.record(steps="0, 1, 2", blocks="decoder", most_mb=1)
    whole = snapshots.ATTENTION_STORE.find(sample(graph, record=record, seed=45))[0][0]
    assert len(whole.snapshots) == 3 * 9
    monkeypatch.setattr(snapshots, "MEGABYTE", whole.nbytes // 2)
    part = snapshots.ATTENTION_STORE.find(sample(graph, record=record, seed=46))[0][0]
    assert 0 < part.nbytes <= whole.nbytes // 2 and len(part.snapshots) < len(whole.snapshots)
    assert caplog.text.count("raise most_mb in MagicFace Attention Record") == 1


def test_the_first_prompt_without_an_area_is_recorded(graph):
    """In any order in which ComfyUI evaluates them; prompts with areas have grids of their own and are refused."""
    record = graph.record(steps="0", blocks="output.3.0")  # both runs begin with the same latent
    model = graph.apply(graph.model, *graph.two_references(), record=record)
    first, second = graph.prompt("a boy wearing a hat and a scarf"), graph.prompt("a hat over a scarf, in a boat")
    alone, both = graph.sample(model, first, seed=54), graph.sample(model, [*first, *second], seed=54)
    one, other = (snapshots_of(graph, samples)[0, "output.3.0"][1] for samples in (alone, both))
    torch.testing.assert_close(one.q, other.q, rtol=1e-2, atol=1e-2)
    areas = call(core_nodes.ConditioningSetArea, conditioning=first, width=64, height=128, x=0, y=0, strength=1.0)[0]
    samples = graph.sample(model, areas, seed=55)
    assert "every prompt has its own area" in graph.note("MagicFaceAttentionView", latent={"samples": samples})


def test_the_attention_view_of_regions(graph):
    """It has a row per concept, with a cell for the queries and one for each view."""
    two_views = graph.reference("hat", image=picture(1, views=2), mask=box(128, 128, 0, 0, 64, 128).expand(2, -1, -1))
    references = [two_views, graph.reference("scarf", 2)]
    samples = sample(graph, references, graph.record(steps="0,-1", blocks="output.3.0"), batch=2, seed=47)
    sheets = graph.run("MagicFaceAttentionView", latent={"samples": samples}, image=picture(3, views=2))
    cell, gap, label = 320, 8, 30
    assert sheets[0].shape == (2, 2 * (cell + label) + 3 * gap, 4 * cell + 5 * gap, 3)
    assert len(sheets.ui["images"]) == 2
    assert not torch.equal(sheets[0][0], sheets[0][1])
    pixel = graph.run("MagicFaceAttentionView", latent={"samples": samples}, query="pixel", x=100, y=20, step=0)[0]
    assert pixel.shape == (2, cell + label + 2 * gap, 4 * cell + 5 * gap, 3)


def test_the_correspondence_view(graph):
    samples = sample(graph, record=graph.record(), seed=48)
    sheets = graph.run("MagicFaceCorrespondence", latent={"samples": samples}, image=picture(3))[0]
    assert sheets.shape == (1, 320 + 30 + 16, 3 * 320 + 4 * 8, 3)
    assert sheets.min() >= 0 and sheets.max() <= 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"step": 1}, "step: 1 was not recorded; there are 0, 2"),
        ({"step": -3}, "step: -3 was not recorded"),
        ({"block": "output.5.0"}, r"block: 'output.5.0' was not recorded; there are output.3.0"),
        ({"query": "pixel", "x": 128}, "x, y: 128, 0 is outside the picture, which is 128x128"),
        ({"query": "token"}, "query: is 'token'; choose regions or pixel"),
        ({"image": picture(1, views=3)}, "image: 3 pictures for 1 latents"),
    ],
)
def test_bad_inputs_are_refused_by_name(graph, inputs, message):
    samples = sample(graph, record=graph.record(steps="0,2"), seed=49)
    assert re.match(message, graph.note("MagicFaceAttentionView", latent={"samples": samples}, **inputs))


def test_a_run_that_was_off_at_the_chosen_step_says_so(graph):
    samples = sample(graph, record=graph.record(steps="2"), schedule=graph.schedule(switch=0.1, end=0.2), seed=50)
    note = graph.note("MagicFaceCorrespondence", latent={"samples": samples})
    assert note.startswith("latent: its run recorded no attention: MagicFace was not on")


@pytest.fixture
def previews(monkeypatch):
    """Every preview picture that is sent to the editor: (step, steps, size)."""
    sent = []

    def hook(value, total, preview, **_):
        if preview is not None:
            sent.append((value, total, preview[1].size))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    return sent


@pytest.mark.parametrize("live", [False, True])
def test_regions_are_shown_live(graph, previews, live):
    model = graph.apply(graph.model, *graph.two_references(), live_regions=live)
    assert torch.equal(graph.sample(model, seed=51), sample(graph, seed=51))
    assert [(value, total) for value, total, _ in previews] == ([(1, 3), (2, 3), (3, 3)] if live else [])
    assert all(width == 256 and height > 256 for _, _, (width, height) in previews)


def test_live_regions_are_shown_beside_the_users_preview(graph, previews, monkeypatch):
    """With ComfyUI's previews on there are two per step, the sampler's own one first."""
    import latent_preview

    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB)
    graph.sample(graph.apply(graph.model, *graph.two_references(), live_regions=True), seed=52)
    assert [value for value, _, _ in previews] == [1, 1, 2, 2, 3, 3]
    assert [size[0] for _, _, size in previews] == [16, 256] * 3


def test_no_regions_are_shown_where_the_method_is_off(graph, previews):
    schedule = graph.schedule(switch=0.1, end=0.4)
    graph.sample(graph.apply(graph.model, *graph.two_references(), schedule=schedule, live_regions=True), seed=56)
    assert [value for value, _, _ in previews] == [1]


def test_live_regions_are_shown_with_a_previewer_that_returns_none(graph, previews, monkeypatch):
    import latent_preview

    class Previewer:
        def decode_latent_to_preview_image(self, preview_format, x0):
            return None

    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: Previewer())
    graph.sample(graph.apply(graph.model, *graph.two_references(), live_regions=True), seed=57)
    assert [value for value, _, _ in previews] == [1, 2, 3]


def test_pictures_of_several_runs_are_shown_one_by_one(graph):
    record = graph.record(blocks="output.3.0")
    runs = [sample(graph, record=record, seed=seed) for seed in (58, 59)]
    note = graph.note("MagicFaceAttentionView", latent={"samples": torch.cat(runs)})
    assert note.startswith("latent: its pictures come from several runs")


def test_reference_passes_do_not_count_in_the_progress_bar(graph, monkeypatch):
    """Three references of different shapes need several reference passes before each step."""
    counted = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", True)
    references = [graph.reference(name, 1, image=picture(1, *size), weight=2.0) for name, size in (
        ("hat", (128, 128)), ("scarf", (128, 192)), ("boy", (192, 128)),
    )]  # fmt: skip
    model = graph.apply(graph.model, *references)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: counted.append((value, total)))
    graph.sample(model, seed=60)
    assert sorted(set(counted)) == counted and counted[-1] == (3, 3) and {total for _, total in counted} == {3}
