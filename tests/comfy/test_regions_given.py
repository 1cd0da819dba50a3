"""MagicFaceRegion: concepts in the places that a person gives them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from .graph import HAT, Graph, box
from .steering import lead

pytestmark = pytest.mark.usefixtures("as_node")

SIZE_PX = 128
LEFT, RIGHT = box(128, 128, 0, 0, 128, 64), box(128, 128, 0, 64, 128, 128)
HALF = 4  # columns of the r = 2 grid, which is 8 wide


def halves(graph: Graph, how: str = "exactly here", **inputs: object) -> list:
    """The hat on the left, the scarf on the right."""
    hat, scarf = graph.two_references()
    return [graph.region(hat, LEFT, how, **inputs), graph.region(scarf, RIGHT, how, **inputs)]


def unet_calls_with_maps(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    unet_call = graph.pack.sampling.run.unet_call
    calls: list[None] = []
    original = unet_call.cross_attention_map
    monkeypatch.setattr(unet_call, "cross_attention_map", lambda *given: calls.append(None) or original(*given))
    return calls


def test_exact_regions_are_the_masks_from_the_first_step_on(graph, monkeypatch):
    """Nothing is segmented, and the preview shows the masks."""
    calls = unet_calls_with_maps(graph, monkeypatch)
    latent = graph.sample(graph.apply(graph.model, *halves(graph)))
    [steps] = graph.regions_by_step(latent)
    expected = torch.zeros(8, 8, dtype=torch.int64)
    expected[:, HALF:] = 1
    assert len(steps) == 3 and all(torch.equal(step, expected) for step in steps)
    assert not calls
    masks = graph.run("MagicFaceSegmentationPreview", latent={"samples": latent}, step=-1)[1]
    assert torch.equal(masks, torch.cat([LEFT, RIGHT]))


def attended(graph: Graph, references: list, schedule: dict) -> list[Tensor]:
    """The self-attention of the only injection block for the positive prompt, in each evaluation: (n, c)."""
    unet_call = graph.pack.sampling.run.unet_call.UNetCall
    original, found = unet_call._inject, []

    def inject(self, block, *given):
        out = original(self, block, *given)
        found.append(out[0].clone())
        return out

    unet_call._inject = inject
    try:
        given = {"semantic_guidance": False, "injection_blocks": "output.3.0", **schedule}
        graph.sample(graph.apply(graph.model, *references, schedule=graph.schedule(**given)), steps=1)
    finally:
        unet_call._inject = original
    return found


@pytest.mark.parametrize("stage", ["layout", "blend"])
@pytest.mark.parametrize("changed", [0, 1])
def test_a_reference_is_seen_from_its_place_only(graph, stage, changed):
    """In both stages, in the first evaluation: another weight changes every query inside, and not a bit outside."""
    schedule = {"switch": 1.0 if stage == "layout" else 0.0}
    given = halves(graph)
    [before] = attended(graph, given, schedule)
    given[changed] = graph.mask_weight(given[changed], weight=1.0)
    [after] = attended(graph, given, schedule)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:, HALF * changed : HALF * changed + HALF] = True
    assert torch.equal((before != after).any(dim=-1), inside.flatten())


def test_one_exact_region_of_all_is_the_paper_without_segmentation(graph):
    """A concept everywhere: RBA with one region equals RSA with one reference."""
    everywhere = graph.region(graph.reference("hat", weight=2.0), torch.ones(1, 128, 128))
    latents = [
        graph.sample(graph.apply(graph.model, everywhere, schedule=graph.schedule(switch=at, semantic_guidance=False)))
        for at in (0.0, 1.0)
    ]
    torch.testing.assert_close(*latents, rtol=1e-4, atol=1e-3 * float(latents[0].abs().max()))


def test_found_regions_are_cut_to_the_place(graph):
    """Only within: what is found elsewhere belongs to no concept, and the reference is not seen from there."""
    hat, scarf = graph.two_references()
    _, free = lead(graph.pack, graph.apply(graph.model, hat, scarf), graph.sample)
    latent, bound = lead(
        graph.pack, graph.apply(graph.model, graph.region(hat, LEFT, "only within"), scarf), graph.sample
    )
    found = graph.regions_by_step(latent)[0]
    everywhere = free[0].regions.concepts[0]
    assert (everywhere[:, HALF:] == 0).any(), "the hat is found on the right too, or this shows nothing"
    for step in found:
        assert not (step[:, HALF:] == 0).any()
    assert any((step[:, :HALF] == 0).any() for step in found)
    assert not torch.equal(bound[0].denoised, free[0].denoised)


def test_two_places_of_one_word_are_two_concepts(graph):
    """Two references of 'hat', each in its own half: each half sees its own, by words cut to places or exactly."""
    one, other = graph.reference("hat", 1, weight=3.0), graph.reference("hat", 2, weight=3.0)
    for how in ("exactly here", "only within"):
        placed = [graph.region(one, LEFT, how), graph.region(other, RIGHT, how)]
        model = graph.apply(graph.model, *placed)
        latent = graph.sample(model)
        for step in graph.regions_by_step(latent)[0]:
            assert not (step[:, HALF:] == 0).any() and not (step[:, :HALF] == 1).any()
        note = graph.run("MagicFaceSegmentationPreview", latent={"samples": latent}, step=-1).ui["text"]
        assert not [line for line in note if "views of one concept" in line]
    same_place = graph.sample(graph.apply(graph.model, graph.region(one, LEFT), graph.region(other, LEFT)))
    assert set(graph.regions_by_step(same_place)[0][0].unique().tolist()) == {-1, 0}


def test_overlaps_go_to_the_later_concept(graph):
    hat, scarf = graph.two_references()
    everywhere = torch.ones(1, 128, 128)
    latent = graph.sample(graph.apply(graph.model, graph.region(hat, everywhere), graph.region(scarf, LEFT)))
    step = graph.regions_by_step(latent)[0][0]
    assert (step[:, :HALF] == 1).all() and (step[:, HALF:] == 0).all()


def test_an_exact_region_wins_over_found_ones(graph):
    hat, scarf = graph.two_references()
    latent = graph.sample(graph.apply(graph.model, graph.region(hat, LEFT), scarf))
    for step in graph.regions_by_step(latent)[0]:
        assert (step[:, :HALF] == 0).all() and not (step[:, HALF:] == 0).any()


def test_a_mask_for_each_picture_of_a_batch(graph):
    hat, scarf = graph.two_references()
    both = torch.cat([LEFT, RIGHT])
    latent = graph.sample(graph.apply(graph.model, graph.region(hat, both), scarf), batch=2)
    first, second = graph.regions_by_step(latent)
    assert (first[0][:, :HALF] == 0).all() and (second[0][:, HALF:] == 0).all()
    assert not (first[0][:, HALF:] == 0).any() and not (second[0][:, :HALF] == 0).any()


@pytest.mark.parametrize(("size", "mask_px"), [((24, 16), (96, 64)), ((17, 23), (136, 184)), ((16, 32), (512, 1024))])
def test_any_aspect_and_resolution(graph, size, mask_px):
    """The mask is resized to the latent; each half of it stays a half."""
    left = torch.zeros(1, *mask_px)
    left[..., : mask_px[1] // 2] = 1.0
    latent = graph.sample(graph.apply(graph.model, graph.region(graph.reference("hat"), left)), size=size)
    step = graph.regions_by_step(latent)[0][0]
    columns = (step == 0).all(dim=0)
    assert abs(int(columns.sum()) - step.shape[1] / 2) <= 0.5
    assert columns[: int(columns.sum())].all()


def test_a_second_pass_at_another_size(graph):
    model = graph.apply(graph.model, *halves(graph))
    first = graph.sample(model)
    larger = torch.nn.functional.interpolate(first, scale_factor=1.5)
    second = graph.sample(model, latent={"samples": larger}, denoise=0.5)
    step = graph.regions_by_step(second)[0][0]
    assert step.shape == (12, 12) and (step[:, :6] == 0).all() and (step[:, 6:] == 1).all()


def test_a_thin_mask_has_a_cell(graph):
    thin = torch.zeros(1, 128, 128)
    thin[:, 40:43, 8:120] = 1.0
    latent = graph.sample(graph.apply(graph.model, graph.region(graph.reference("hat"), thin)))
    step = graph.regions_by_step(latent)[0][0]
    assert (step[2] == 0).sum() >= 6 and (step == 0).sum() <= 8


def test_the_effect_fades_out_at_the_edge(graph):
    """Each query lies as far between the attention without and with the reference as its share says."""
    reference, first_row = graph.reference("hat", weight=3.0), box(128, 128, 0, 0, 16, 128)
    [hard] = attended(graph, [graph.region(reference, LEFT)], {"switch": 1.0})
    [soft] = attended(graph, [graph.region(reference, LEFT, feather_px=16)], {"switch": 1.0})
    [plain] = attended(graph, [graph.region(reference, first_row)], {"switch": 1.0})
    placed = graph.region(reference, LEFT, feather_px=16).region
    _, shares = placed.on_grid((8, 8))
    share = shares[0].flatten()[:, None]
    below = torch.arange(64) >= 8  # `plain` has the reference in the first row
    torch.testing.assert_close(soft[below], torch.lerp(plain, hard, share)[below], rtol=1e-4, atol=1e-5)
    of_columns = shares[0, 4]
    assert (of_columns.diff() <= 0).all() and of_columns[0] == 1 and 0 < of_columns[HALF - 1] < 0.5
    assert (of_columns[HALF:] == 0).all()


def test_exact_concepts_need_no_words(graph):
    """The prompt may be of any encoder, and need not name them."""
    latent = graph.sample(graph.apply(graph.model, *halves(graph)), positive=graph.text("two dogs"))
    assert set(graph.regions_by_step(latent)[0][0].unique().tolist()) == {0, 1}
    with pytest.raises(graph.sampling_error, match="does not come from MagicFace Prompt"):
        graph.sample(graph.apply(graph.model, *halves(graph, "only within")), positive=graph.text("two dogs"))
    hat, scarf = graph.two_references()
    with pytest.raises(graph.sampling_error, match="'scarf' is not in the positive prompt"):
        graph.sample(graph.apply(graph.model, graph.region(hat, LEFT), scarf), positive=graph.prompt("a dog"))


def test_weight_and_order_of_nodes_do_not_matter(graph):
    reference = graph.reference("hat")
    one = graph.region(graph.mask_weight(reference, weight=2.0), LEFT)
    other = graph.mask_weight(graph.region(reference, LEFT), weight=2.0)
    assert torch.equal(*(graph.sample(graph.apply(graph.model, each)) for each in (one, other)))
    off = graph.mask_weight(one, weight=0.0)
    assert torch.equal(graph.sample(graph.apply(graph.model, off)), graph.sample(graph.model))


def test_a_mask_of_everywhere_changes_nothing(graph):
    """Only within the whole picture is anywhere."""
    given = graph.two_references()
    everywhere = [graph.region(each, torch.ones(1, 64, 64), "only within") for each in given]
    expected = graph.sample(graph.apply(graph.model, *given))
    torch.testing.assert_close(graph.sample(graph.apply(graph.model, *everywhere)), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("mask", "batch", "says"),
    [
        (torch.ones(1, 128, 256), 1, "mask: that of 'hat' is 256x128, and the picture to be sampled is 128x128"),
        (torch.ones(3, 128, 128), 2, "mask: 3 masks for 'hat', and 2 pictures are sampled"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_sampling(graph, mask, batch, says):
    model = graph.apply(graph.model, graph.region(graph.reference("hat"), mask))
    with pytest.raises(graph.sampling_error, match=f"MagicFaceRegion: {says}"):
        graph.sample(model, batch=batch)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"mask": torch.zeros(1, 128, 128)}, "mask: is empty"),
        ({"mask": LEFT * float("nan")}, "mask: has values outside 0..1 or not finite"),
        ({"how": "there"}, "how: is 'there'; choose exactly here or only within"),
        ({"feather_px": 600}, "feather_px: is 600; give a number from 0 to 512"),
        ({"mask": box(128, 128, 60, 60, 68, 68), "feather_px": 20}, "feather_px: 20 leaves nothing of the mask"),
    ],
)
def test_bad_inputs_are_named(graph, inputs, says):
    given = {"mask": LEFT, "how": "exactly here", **inputs}
    with pytest.raises(ValueError, match=f"MagicFaceRegion: {says}"):
        graph.region(graph.reference("hat"), **given)


def test_prompts_with_areas(graph):
    """A prompt of the left half and one of the right: regions are of the whole picture."""
    assert HAT  # the usual prompt names the hat
    from .neighbours import left_half_area

    positive, negative = left_half_area(graph, graph.prompt(), graph.text())
    latent = graph.sample(graph.apply(graph.model, *halves(graph)), positive, negative)
    step = graph.regions_by_step(latent)[0][0]
    assert (step[:, :HALF] == 0).all() and (step[:, HALF:] == 1).all() and torch.isfinite(latent).all()


def test_a_grey_mask_covers_what_it_marks(graph):
    """Of a mask below one half everywhere all cells count alike, whatever its size."""
    grey = graph.region(graph.reference("hat"), torch.full((1, 1000, 1000), 0.3)).region
    for side in (64, 96, 100):
        assert grey.on_grid((side, side))[0].all()


def test_references_that_are_off_have_no_place(graph):
    """Neither their number of masks nor their share counts."""
    hat, scarf = graph.two_references()
    off = graph.region(graph.mask_weight(scarf, weight=0.0), torch.cat([LEFT, RIGHT, LEFT]))
    placed = graph.region(hat, LEFT, feather_px=16)
    expected = graph.sample(graph.apply(graph.model, placed), batch=2)
    torch.testing.assert_close(
        graph.sample(graph.apply(graph.model, placed, off), batch=2), expected, rtol=1e-4, atol=1e-3
    )


def test_a_feather_that_one_picture_of_the_batch_has_not(graph):
    """The second mask covers everything, so nothing fades there."""
    both = torch.cat([LEFT, torch.ones(1, 128, 128)])
    latent = graph.sample(graph.apply(graph.model, graph.region(graph.reference("hat"), both, feather_px=16)), batch=2)
    assert torch.isfinite(latent).all()


def test_skipped_evaluations_keep_found_regions(graph):
    """Where another node skips the UNet, the regions of the evaluation before stay."""
    hat, scarf = graph.two_references()
    calls = []

    def skip(apply, args):
        calls.append(None)
        return (
            apply(args["input"], args["timestep"], **args["c"]) if len(calls) < 2 else torch.zeros_like(args["input"])
        )

    model = graph.apply(graph.model, graph.region(hat, torch.ones(1, 64, 64), "only within"), scarf)
    model.set_model_unet_function_wrapper(skip)
    first, *rest = graph.regions_by_step(graph.sample(model))[0]
    assert rest and all(torch.equal(step, first) for step in rest)


def test_a_piece_in_other_places_does_not_go_on_with_the_regions(graph):
    """The words are the same, but the places are not: the regions are found anew."""
    from .test_sampling_forms import PIECES, sample_steps

    hat, scarf = graph.two_references()

    def model(mask):
        return graph.apply(graph.model, graph.region(hat, mask, "only within"), scarf)

    half = sample_steps(graph, 0, 3)(model(LEFT))
    rest = sample_steps(graph, 3, PIECES, half)(model(RIGHT))["samples"]
    step = graph.regions_by_step(rest)[0][0]
    assert not (step[:, :HALF] == 0).any()
