"""Masks as they come: labels, floors, alpha, odd shapes and precisions; each taken for what it is, or named."""

from __future__ import annotations

import io
import logging

import comfy.model_management
import comfy.utils
import comfy_extras.nodes_compositing as compositing
import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

import nodes as core_nodes

from .graph import box, call, picture

pytestmark = pytest.mark.usefixtures("as_node")

BOX = box(128, 128, 32, 40, 96, 100)


@pytest.fixture
def said(caplog):
    """What the log has said since the last call."""
    caplog.set_level(logging.INFO)

    def since():
        text = " | ".join(record.getMessage() for record in caplog.records if "MagicFace" in record.getMessage())
        caplog.clear()
        return text

    return since


def as_jpeg(mask, quality):
    """(1, H, W): a mask that went through a JPEG file."""
    file = io.BytesIO()
    Image.fromarray((mask[0] * 255).round().byte().numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file).convert("L"))).float()[None] / 255


# Labels


@pytest.mark.parametrize("one", [1 / 255, 1 / 65535], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_labels_of_0_and_1_are_the_mask(graph, said, one, dtype):
    labels = (BOX * one).to(dtype)
    assert torch.equal(graph.reference(mask=labels).masks, BOX)
    assert "taken as labels 0 and 1" in said()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64])
def test_masks_of_0_and_1_in_any_type(graph, said, dtype):
    assert torch.equal(graph.reference(mask=BOX.to(dtype)).masks, BOX)
    assert "labels" not in said()


# Floors


@pytest.mark.parametrize("floor", [1, 8, 16, 20])
def test_a_faint_floor_is_black(graph, floor):
    """Even noise up to it: the very picture of a clean mask."""
    noise = torch.randint(0, floor + 1, BOX.shape, generator=torch.Generator().manual_seed(floor)) / 255
    for mask in (torch.maximum(BOX, torch.tensor(floor / 255)), torch.maximum(BOX, noise)):
        assert torch.equal(graph.reference(mask=mask).masks, BOX)


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
def test_masks_from_jpeg_files(graph, quality):
    """Outside the blocks of 8 x 8 pixels that the edge runs through, black is black; with a floor of 8, too."""
    for floor in (0.0, 8 / 255):
        shaky = as_jpeg(torch.maximum(BOX, torch.tensor(floor)), quality)
        found = graph.reference(mask=shaky).masks
        black = (BOX == 0) & ~near_edge()
        assert (found[black] == 0).all() and (found[(BOX == 1) & ~near_edge()] > 0.9).all()
        kept = shaky > 0.08
        assert torch.equal(found[kept], shaky[kept]) and (found[~kept] == 0).all()


def near_edge():
    """(H, W) bool: the blocks of a JPEG file that BOX' edge runs through."""
    blocks = torch.nn.functional.avg_pool2d(BOX, 8)[0]
    edge = (blocks > 0) & (blocks < 1)
    for dim in (0, 1):
        for by in (1, -1):
            edge = edge | (torch.roll(blocks, by, dim) != blocks)
    return edge.repeat_interleave(8, 0).repeat_interleave(8, 1)


def test_soft_masks_keep_their_bits_above_black(graph):
    soft = torch.linspace(0, 1, 128).expand(1, 128, 128).clone()
    found = graph.reference(mask=soft).masks
    assert torch.equal(found, torch.where(soft > 0.08, soft, 0.0))
    feathered = graph.mask_weight(graph.reference(mask=BOX), feather_px=9)
    assert 0 < feathered.masks[feathered.masks > 0].min() < 0.01  # what the node itself feathers is as it was


def test_an_inverted_mask_has_no_floor_either(graph):
    nearly_white = torch.where(BOX > 0, 247 / 255, 0.0)
    inverted = graph.mask_weight(graph.reference(mask=nearly_white), invert=True)
    assert torch.equal(inverted.masks, 1 - BOX)


# Next to nothing


def test_a_tiny_mask_is_warned_of(graph, said):
    dot = box(1024, 1024, 500, 500, 502, 502)
    reference = graph.reference(image=picture(1, 1024, 1024), mask=dot, size=1024)
    words = said()
    assert "4 pixel(s)" in words and "0.00038 %" in words and "strongest value of 1" in words and "crop" in words
    graph.mask_weight(reference, weight=2.0)
    assert "pixel(s)" not in said()  # once
    graph.mask_weight(reference, grow_px=20)
    assert "pixel(s)" not in said()
    graph.reference(image=picture(1, 1024, 1024), mask=box(1024, 1024, 500, 500, 532, 532), size=1024)
    assert "pixel(s)" not in said()


def test_shrinking_to_next_to_nothing_is_warned_of(graph, said):
    graph.mask_weight(graph.reference(mask=BOX), grow_px=-29)
    assert "next to nothing" in said()


def test_a_faint_mask_is_warned_of(graph, said):
    graph.reference(mask=BOX * 0.1)
    assert "faint" in said()


def test_a_reference_without_a_token_is_refused_before_sampling(graph):
    """By nearest, a line of one pixel misses the pixels that the grids of SDXL's blocks take; by area it does not."""
    line = box(128, 128, 0, 3, 128, 4)
    reference = graph.mask_weight(graph.reference(mask=line), resize="nearest")
    calls = []
    handle = graph.model.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        says = r"^MagicFaceReference: mask: .*'hat'.*8x8.*resize to area"
        with pytest.raises(graph.sampling_error, match=says) as error:
            graph.sample(graph.apply(graph.model, reference))
        assert calls == [] and "4x4" in str(error.value)
    finally:
        handle.remove()
    graph.sample(graph.apply(graph.model, graph.mask_weight(reference, resize="area")), steps=1)
    graph.sample(graph.apply(graph.model, graph.mask_weight(reference, resize="nearest", weight=0.0)), steps=1)


# Cut-outs


def cut_out(alpha):
    return torch.cat([picture(3), alpha[..., None]], dim=-1)


def test_alpha_is_the_mask_where_none_is_given(graph, said):
    soft = torch.where(BOX > 0, 0.75, 4 / 255)
    reference = graph.reference(image=cut_out(soft))
    assert torch.equal(reference.masks, 0.75 * BOX)
    assert "its alpha serves as one (23 % of the picture)" in said()
    assert torch.equal(reference.latents, graph.reference(image=picture(3)).latents)


def test_alpha_that_marks_nothing_or_everything(graph, said):
    whole = torch.ones(1, 128, 128)
    assert torch.equal(graph.reference(image=cut_out(whole)).masks, whole) and said() == ""
    assert torch.equal(graph.reference(image=cut_out(0 * whole)).masks, whole)
    assert "all transparent" in said()


def test_a_mask_of_the_background_is_warned_of(graph, said):
    graph.reference(image=cut_out(BOX), mask=1 - BOX)
    words = said()
    assert "inverse of its alpha" in words and "set invert in MagicFace Mask Weight" in words
    graph.reference(image=cut_out(BOX), mask=BOX)
    graph.reference(image=picture(3), mask=1 - BOX)
    assert said() == ""


def test_load_images_mask_of_a_cut_out_is_warned_of(graph, said, tmp_path, monkeypatch):
    """Load Image drops the alpha; its mask is the background, whose colours a cut-out has lost."""
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    pixels = cut_out(BOX)[0] * BOX[0][..., None]
    Image.fromarray((pixels * 255).round().byte().numpy(), "RGBA").save(tmp_path / "cut.png")
    loaded, mask = call(core_nodes.LoadImage, image="cut.png")[:2]
    reference = graph.reference(image=loaded, mask=mask)
    assert torch.equal(reference.masks, 1 - BOX)
    assert "single colour" in said()
    assert torch.equal(graph.mask_weight(reference, invert=True).masks, BOX)
    joined = call(compositing.JoinImageWithAlpha, image=loaded, alpha=mask)[0]
    assert torch.equal(graph.reference(image=joined).masks, BOX)


# Shapes and precisions


@pytest.mark.parametrize("shape", [(128, 128), (1, 128, 128), (1, 1, 128, 128), (1, 128, 128, 1), (128, 128, 1)])
def test_shapes_of_masks(graph, shape):
    assert torch.equal(graph.reference(mask=BOX.reshape(shape)).masks, BOX)


def test_masks_of_several_views_with_a_channel(graph):
    masks = torch.cat([BOX, 1 - BOX])
    assert torch.equal(graph.reference(image=picture(1, views=2), mask=masks[..., None]).masks, masks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_pictures_and_masks_of_other_precisions(graph, dtype):
    """Pictures of 8 bits that bfloat16 holds are encoded to the same bits."""
    image = picture(3).round()
    reference = graph.reference(image=image.to(dtype), mask=BOX.to(dtype))
    expected = graph.reference(image=image, mask=BOX)
    assert reference.masks.dtype is torch.float32 and torch.equal(reference.masks, BOX)
    assert torch.equal(reference.latents, expected.latents) and torch.equal(reference.pictures, expected.pictures)
    any_levels = [graph.reference(image=given).pictures.int() for given in (picture(4).to(dtype), picture(4))]
    assert (any_levels[0] - any_levels[1]).abs().max() <= 1  # of 255


# Large ones


def test_trimming_shows_progress_and_can_be_interrupted(graph, monkeypatch):
    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: shown.append((value, total)))
    reference = graph.reference(mask=BOX)
    shown.clear()
    graph.mask_weight(reference, grow_px=3, feather_px=4)
    assert shown[-1] == (6 * 128 * 128, 6 * 128 * 128)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        graph.mask_weight(reference, feather_px=4)
