"""crop of MagicFace Reference: only the part inside the mask is encoded, with a margin."""

from __future__ import annotations

import inspect
import logging

import pytest
import torch

from .graph import box, picture

pytestmark = pytest.mark.usefixtures("as_node")

CAPTION = "a man with a hat"
HAT = box(256, 256, 32, 96, 80, 160)  # 48 x 64 pixels


def reference(graph, **inputs):
    return graph.reference(image=inputs.pop("image", picture(1, 256, 256)), **{"mask": HAT, "size": 256, **inputs})


def tokens(graph, given):
    """How many tokens of the finest grid are inside the mask of each view."""
    size = given.latents.shape[-2] // 2, given.latents.shape[-1] // 2
    masks = graph.pack.attention.masks
    return [len(masks.token_mask(mask, size, given.resize).indices) for mask in given.masks]


def test_off_is_the_reference_as_it_was(graph, magicface_nodes):
    """As a saved graph without the input runs; each view is encoded alone, as ComfyUI encodes it."""
    assert inspect.signature(magicface_nodes["MagicFaceReference"].execute).parameters["crop"].default is False
    image = picture(1, 256, 256).round()
    for given in (reference(graph, image=image), reference(graph, image=image, crop=False)):
        assert torch.equal(given.latents, graph.vae.encode(image).float())
        assert torch.equal(given.masks, HAT) and given.pictures.shape == (1, 256, 256, 3)


@pytest.mark.parametrize("mask", [torch.ones(1, 256, 256), None])
def test_nothing_to_crop_to(graph, mask, caplog):
    """The same bits as without, and a note says so."""
    plain = reference(graph, mask=mask)
    with caplog.at_level(logging.WARNING):
        cropped = reference(graph, mask=mask, crop=True)
    assert torch.equal(cropped.latents, plain.latents) and torch.equal(cropped.masks, plain.masks)
    assert "nothing to crop to" in caplog.text and any("nothing to crop to" in note for note in cropped.mask_notes)


def test_a_hat_gets_more_tokens(graph):
    """Its picture and mask are cut to one place, at the picture's own pixels; its caption stays."""
    image = picture(1, 256, 256)
    plain, cropped = reference(graph), reference(graph, crop=True)
    assert tokens(graph, cropped)[0] > 3 * tokens(graph, plain)[0]
    assert float(cropped.masks.sum()) == float(HAT.sum())
    height, width = cropped.masks.shape[1:]
    (rows, columns), inside = torch.nonzero(cropped.masks[0] > 0).aminmax(dim=0), torch.nonzero(HAT[0] > 0).amin(dim=0)
    assert torch.equal(columns - rows, torch.tensor([47, 63]))
    top, left = (inside - rows).tolist()
    part = image[:, top : top + height, left : left + width]
    shown = (part * 255).round().to(torch.uint8)
    assert torch.equal(cropped.pictures, shown)
    assert cropped.caption == CAPTION and torch.equal(cropped.conditioning[0][0], plain.conditioning[0][0])
    assert abs(width / height / (cropped.latents.shape[-1] / cropped.latents.shape[-2]) - 1) < 0.05


@pytest.mark.parametrize("corner", [(0, 0, 40, 40), (216, 216, 256, 256), (0, 100, 30, 140), (90, 0, 120, 256)])
def test_a_mask_at_the_border_stays_whole(graph, corner):
    """The part is moved into the picture, so it is not padded."""
    cropped = reference(graph, mask=box(256, 256, *corner), crop=True)
    assert float(cropped.masks.sum()) == (corner[2] - corner[0]) * (corner[3] - corner[1])
    assert cropped.masks.shape[1:] == cropped.pictures.shape[1:3]


def test_alpha_counts_as_a_mask(graph):
    image = torch.cat([picture(1, 256, 256), HAT[..., None]], dim=-1)
    one, other = reference(graph, image=image, mask=None, crop=True), reference(graph, crop=True)
    assert torch.equal(one.latents, other.latents) and torch.equal(one.masks, other.masks)


def test_a_nearly_empty_mask_keeps_some_of_its_surroundings(graph):
    """One pixel: an eighth of the picture's side is encoded."""
    cropped = reference(graph, mask=box(256, 256, 100, 100, 101, 101), crop=True)
    assert cropped.masks.shape == (1, 32, 32) and float(cropped.masks.sum()) == 1
    assert torch.isfinite(cropped.latents).all()


def test_views_get_one_shape_and_each_its_own_place(graph):
    """A wide mask and a tall one, a small one and a large one: no marked pixel is lost, and no view is stretched."""
    masks = [(20, 20, 60, 120), (100, 30, 240, 70), (5, 200, 25, 220)]
    views = [box(256, 256, *where) for where in masks]
    cropped = reference(graph, image=picture(1, 256, 256, views=3), mask=torch.cat(views), crop=True)
    height, width = cropped.masks.shape[1:]
    assert cropped.latents.shape[0] == 3 and cropped.pictures.shape == (3, height, width, 3)
    for mask, (top, left, bottom, right) in zip(cropped.masks, masks, strict=True):
        first, last = torch.nonzero(mask > 0).aminmax(dim=0)
        tall, wide = (last - first + 1).tolist()
        assert abs(wide / tall / ((right - left) / (bottom - top)) - 1) < 0.1
        assert bool((mask[first[0] : last[0] + 1, first[1] : last[1] + 1] > 0).all())
        assert 0 < tall <= height and 0 < wide <= width


def test_a_run_with_a_cropped_reference(graph):
    """It acts, and is another picture than without."""
    plain, cropped = reference(graph, size=128), reference(graph, size=128, crop=True)
    ours, theirs = (graph.sample(graph.apply(graph.model, each)) for each in (cropped, plain))
    assert torch.isfinite(ours).all() and (ours - theirs).abs().max() > 0.01
    assert (ours - graph.sample(graph.model)).abs().max() > 0.01
