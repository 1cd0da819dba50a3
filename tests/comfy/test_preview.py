"""The segmentation preview shows the regions of the picture that it is given."""

from __future__ import annotations

import logging

import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from PIL import Image
from torch.nn.functional import max_pool2d

import nodes as core_nodes

from .graph import call, picture

pytestmark = pytest.mark.usefixtures("as_node")

NAMES = ("hat", "scarf")
PREVIEW = "MagicFaceSegmentationPreview"


@pytest.fixture
def patched_model(graph):
    return graph.apply(graph.model, *graph.two_references())


def preview(graph, samples, **inputs):
    """The preview's picture and masks, and the pictures shown in the editor."""
    out = graph.run("MagicFaceSegmentationPreview", latent={"samples": samples}, **inputs)
    return out[0], out[1], out.ui["images"]


def masks_of(graph, samples, **inputs):
    return preview(graph, samples, **inputs)[1]


def enlarge(regions, height, width):
    """(H2, W2) to (height, width): each pixel takes the value at its upper left corner."""
    rows = torch.arange(height) * regions.shape[0] // height
    columns = torch.arange(width) * regions.shape[1] // width
    return regions[rows][:, columns]


@pytest.mark.parametrize(("size", "image"), [((16, 16), None), ((16, 24), (96, 160)), ((17, 23), (136, 184))])
def test_masks_are_the_regions_at_the_pictures_size(graph, patched_model, size, image):
    samples = graph.sample(patched_model, size=size, batch=2)
    height, width = image or (size[0] * 8, size[1] * 8)
    given = {} if image is None else {"image": picture(5, *image, views=2)}
    drawn, masks, shown = preview(graph, samples, **given)
    assert masks.shape == (4, height, width) and set(masks.unique().tolist()) == {0.0, 1.0}
    assert masks.view(2, 2, height, width).sum(dim=1).max() == 1.0  # within a picture, no pixel is in two masks
    for number, steps in enumerate(graph.regions_by_step(samples)):
        labels = enlarge(steps[-1], height, width)
        for concept in (0, 1):
            assert torch.equal(masks[2 * number + concept], (labels == concept).float())
    assert drawn.shape[0] == 2 and drawn.shape[1] > height and drawn.shape[2:] == (width, 3)
    assert len(shown) == 2


@pytest.mark.parametrize(("step", "same_as"), [(0, 0), (1, 1), (2, 2), (-1, 2), (-3, 0)])
def test_each_step_has_its_own_regions(graph, patched_model, step, same_as):
    samples = graph.sample(patched_model)
    labels = enlarge(graph.regions_by_step(samples)[0][same_as], 128, 128)
    expected = torch.stack([labels == 0, labels == 1]).float()
    assert torch.equal(masks_of(graph, samples, step=step), expected)


def test_default_step_is_the_last(graph, patched_model):
    samples = graph.sample(patched_model)
    assert torch.equal(masks_of(graph, samples), masks_of(graph, samples, step=2))
    assert not torch.equal(masks_of(graph, samples), masks_of(graph, samples, step=0))


def test_a_mask_serves_for_inpainting(graph, patched_model):
    """Sampling again within a region does not change the picture elsewhere."""
    samples = graph.sample(patched_model)
    region = masks_of(graph, samples)[:1]
    given = call(core_nodes.SetLatentNoiseMask, samples={"samples": samples}, mask=region)[0]
    again = graph.sample(graph.model, latent=given, denoise=0.9, seed=5)
    inside = max_pool2d(region[None], 8)[0, 0] > 0
    near = max_pool2d(inside[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
    assert inside.any() and not near.all()
    torch.testing.assert_close(again[0][:, ~near], samples[0][:, ~near], rtol=0, atol=1e-4)
    assert (again - samples)[0][:, inside].abs().max() > 0.1


def test_all_steps_are_drawn_in_rows_of_five(graph, patched_model):
    samples = graph.sample(patched_model, steps=6)
    single, masks, _ = preview(graph, samples)
    drawn, same_masks, shown = preview(graph, samples, all_steps=True)
    assert torch.equal(masks, same_masks) and len(shown) == 1
    line = 15  # height of the step's number above each picture
    height, width = single.shape[1] + line, single.shape[2]
    assert drawn.shape == (1, 2 * height, 5 * width, 3)
    assert torch.equal(drawn[0, height + line :, :width], single[0])
    assert torch.equal(drawn[0, line:height, :width], preview(graph, samples, step=0)[0][0])
    assert (drawn[0, height:, width:] == 0).all()


def test_each_latent_gets_the_regions_of_its_own_run(graph, patched_model):
    """Two samplers on one model and one on another; previews are made in any order, and repeatedly."""
    other = graph.apply(graph.model, graph.reference("scarf", 7, weight=4.0))
    runs = [graph.sample(model, seed=seed) for model, seed in ((patched_model, 1), (patched_model, 2), (other, 1))]
    expected = [masks_of(graph, samples) for samples in runs]
    assert [len(masks) for masks in expected] == [2, 2, 1]
    assert not torch.equal(expected[0], expected[1])
    for number in (1, 0, 2, 0):
        assert torch.equal(masks_of(graph, runs[number]), expected[number])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_latent_is_recognised_in_another_precision(graph, patched_model, dtype):
    runs = [graph.sample(patched_model, seed=seed) for seed in (1, 2)]
    for samples in runs:
        assert torch.equal(masks_of(graph, samples.to(dtype)), masks_of(graph, samples))


def test_the_denoised_output_is_recognised(graph, patched_model):
    """In a run that stops half way, the denoised output differs from the other output."""
    sigmas = call(custom.BasicScheduler, model=graph.model, scheduler="normal", steps=4, denoise=1.0)[0][:3]
    guider = call(custom.CFGGuider, model=patched_model, positive=graph.prompt(), negative=graph.text(), cfg=5.0)[0]
    output, denoised = call(
        custom.SamplerCustomAdvanced,
        noise=call(custom.RandomNoise, noise_seed=1)[0],
        guider=guider,
        sampler=call(custom.KSamplerSelect, sampler_name="euler")[0],
        sigmas=sigmas,
        latent_image={"samples": torch.zeros(1, 4, 16, 16)},
    )[:2]
    assert (output["samples"] - denoised["samples"]).abs().max() > 1.0
    assert torch.equal(masks_of(graph, denoised["samples"]), masks_of(graph, output["samples"]))


def test_images_of_a_batch_are_recognised(graph, patched_model):
    batch = {"samples": graph.sample(patched_model, batch=3)}
    masks = masks_of(graph, batch["samples"])
    second = call(core_nodes.LatentFromBatch, samples=batch, batch_index=1, length=1)[0]
    assert torch.equal(masks_of(graph, second["samples"]), masks[2:4])
    assert torch.equal(masks_of(graph, batch["samples"][[2, 0]]), masks[[4, 5, 0, 1]])


def test_a_batch_from_two_runs_is_recognised(graph, patched_model):
    one, other = (graph.sample(patched_model, seed=seed) for seed in (1, 2))
    together = masks_of(graph, torch.cat([one, other]))
    assert torch.equal(together, torch.cat([masks_of(graph, one), masks_of(graph, other)]))


@pytest.mark.parametrize(
    "change",
    [
        lambda samples: samples * 1.02,
        lambda samples: samples + 0.5,
        lambda samples: samples.flip(-1),
        lambda samples: samples[..., :-2],
        lambda samples: torch.cat([samples, torch.zeros_like(samples)]),
    ],
    ids=["scaled", "shifted", "flipped", "cropped", "with another"],
)
def test_a_changed_latent_is_unknown(graph, patched_model, change):
    changed = change(graph.sample(patched_model))
    note = graph.note(PREVIEW, latent={"samples": changed})
    assert note.startswith("latent: no run with MagicFace is known") and "sample it again" in note
    _, masks, _ = preview(graph, changed)
    assert masks.shape[0] == len(changed) and not masks.any()


def test_an_unpatched_samplers_latent_is_unknown(graph):
    samples, image = graph.sample(graph.model, seed=77), picture(5)
    assert "bypassed" in graph.note(PREVIEW, latent={"samples": samples}, image=image)
    drawn, _, _ = preview(graph, samples, image=image)
    assert torch.equal(drawn[0, :128], image[0]) and drawn.shape[1] > 128  # the picture itself, the note below it


def test_a_latent_that_was_not_sampled_is_named_so(graph, patched_model):
    empty = {"samples": torch.zeros(1, 4, 16, 16)}
    inputs = {"steps": 3, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
    steps = {"start_at_step": 3, "end_at_step": 3, "add_noise": "disable", "return_with_leftover_noise": "disable"}
    given = {"positive": graph.prompt(), "negative": graph.text(), "latent_image": empty, "noise_seed": 1}
    latent = call(core_nodes.KSamplerAdvanced, model=patched_model, **given, **{**inputs, **steps})[0]
    assert "the sampler made no step" in graph.note(PREVIEW, latent=latent)


@pytest.mark.parametrize(
    "latent",
    [
        {"samples": torch.zeros(1, 16, 3, 8, 8)},
        {"samples": torch.full((2, 4, 16, 16), torch.nan)},
        {"samples": torch.zeros(0, 4, 16, 16)},
    ],
    ids=["video", "not finite", "empty batch"],
)
@pytest.mark.parametrize("node", ["MagicFaceSegmentationPreview", "MagicFaceAttentionView", "MagicFaceCorrespondence"])
@pytest.mark.parametrize("image", [None, picture(5)])
def test_a_node_that_shows_ends_with_a_picture_whatever_comes_in(graph, node, latent, image):
    assert graph.note(node, latent=latent, **({} if image is None else {"image": image}))


@pytest.mark.parametrize(
    ("schedule", "sampling", "finding"),
    [
        (
            {"end": 0.5},
            {"denoise": 0.3},
            "the method did nothing, because none of this run's noise levels is between start (0)",
        ),
        ({"switch": 0.0, "end": 0.0}, {}, "the method did nothing"),
        ({}, {"zeroed": True}, "no regions were found (the positive prompt is zeroed out)"),
    ],
    ids=["img2img after the end", "nothing in range", "zeroed prompt"],
)
def test_a_method_that_does_nothing_says_so(graph, caplog, schedule, sampling, finding):
    """In the log once, and under the preview."""
    model = graph.apply(graph.model, *graph.two_references(), schedule=graph.schedule(**schedule))
    positive = graph.prompt()
    if sampling.pop("zeroed", False):
        positive = call(core_nodes.ConditioningZeroOut, conditioning=positive)[0]
    with caplog.at_level(logging.WARNING):
        samples = graph.sample(model, positive, **sampling)
    assert sum(finding in record.getMessage() for record in caplog.records) == 1
    assert finding in graph.note(PREVIEW, latent={"samples": samples})


def test_two_references_with_one_phrase_are_noted(graph):
    model = graph.apply(graph.model, graph.reference("hat", 1), graph.reference("hat", 2))
    assert "2 references have the phrase 'hat'" in graph.note(PREVIEW, latent={"samples": graph.sample(model)})


def test_a_removed_wrapper_is_noticed_before_sampling(graph, patched_model):
    """As by a pack that replaces all OUTER_SAMPLE wrappers of a model by its own."""
    model = patched_model.clone()
    model.wrappers.update(
        {WrappersMP.OUTER_SAMPLE: {None: [lambda executor, *args, **kwargs: executor(*args, **kwargs)]}}
    )
    with pytest.raises(
        graph.sampling_error, match=r"MagicFaceApply: model: another node removed .* put MagicFace Apply"
    ):
        graph.sample(model)
    assert torch.isfinite(graph.sample(patched_model)).all()


@pytest.mark.parametrize("weights", [(0.0, 0.0), (3.0, 0.0)])
def test_concepts_that_are_off_have_no_region(graph, weights):
    samples = graph.sample(graph.apply(graph.model, *graph.two_references(*weights)))
    masks = masks_of(graph, samples)
    assert masks.shape == (2, 128, 128)
    assert [bool(mask.any()) for mask in masks] == [weight > 0 for weight in weights]


def test_each_concept_has_its_colour(graph, patched_model):
    """Each concept's pixels take its colour; the others stay, except for the foreground's white outline."""
    samples, image = graph.sample(patched_model), picture(5)
    drawn, masks, _ = preview(graph, samples, image=image)
    drawn, white = drawn[0, :128], torch.ones(3)
    outline = (drawn == white).all(dim=-1)
    colours = torch.tensor([[230.0, 159.0, 0.0], [86.0, 180.0, 233.0]]) / 255
    for mask, colour in zip(masks.bool(), colours, strict=True):
        inside = mask & ~outline
        expected = 0.45 * image[0] + 0.55 * colour
        torch.testing.assert_close(drawn[inside], expected[inside], rtol=0, atol=1e-5)
    outside = ~masks.bool().any(dim=0) & ~outline
    assert outside.any() and torch.equal(drawn[outside], image[0][outside])
    assert 0 < outline.float().mean() < 0.5


def test_the_preview_is_shown_in_the_editor(graph, patched_model, tmp_path):
    drawn, _, shown = preview(graph, graph.sample(patched_model, batch=2))
    for picture_shown, expected in zip(shown, drawn, strict=True):
        assert picture_shown["type"] == "temp"
        saved = Image.open(tmp_path / picture_shown["subfolder"] / picture_shown["filename"])
        assert saved.size == (expected.shape[1], expected.shape[0])
        pixel = saved.convert("RGB").getpixel((40, 40))
        assert all(abs(level - 255 * value) <= 1 for level, value in zip(pixel, expected[40, 40].tolist(), strict=True))


def test_the_store_is_bounded(graph, patched_model):
    """A separate store drops the least recently used runs first, and stays small."""
    sampling, samples = graph.pack.sampling, graph.sample(patched_model)
    [(history, _)] = sampling.regions.history.REGION_STORE.find(samples)
    entry = history.nbytes + samples.numel() * 4
    store = sampling.latent_store.LatentStore(max_bytes=3 * entry + 100)
    runs = [samples + 3 * number for number in range(5)]
    for number, run in enumerate(runs):
        store.add(history, [run])
        assert store.nbytes <= 3 * entry + 100
        assert store.find(runs[0]) is not None or number >= 3
    assert [store.find(run) is not None for run in runs] == [True, False, False, True, True]
