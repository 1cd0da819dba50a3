"""What MagicFace Reference and Mask Weight show on the node."""

from __future__ import annotations

import pytest
import torch

from .graph import box, picture

pytestmark = pytest.mark.usefixtures("as_node")


def drawn(graph, reference):
    return graph.pack.nodes.drawing.reference.draw_reference(reference)


def lines(graph, reference, monkeypatch):
    """The lines below the first view."""
    module, seen = graph.pack.nodes.drawing.reference, []
    monkeypatch.setattr(module, "with_notes", lambda shown, notes: seen.append(notes) or shown)
    drawn(graph, reference)
    return seen[0]


def test_what_is_outside_the_mask_is_faded(graph):
    reference = graph.reference(image=picture(1, 128, 192), mask=box(128, 192, 0, 0, 128, 96))
    shown = drawn(graph, reference)[0, :128]
    assert torch.allclose(shown[:, :96], picture(1, 128, 192)[0, :, :96], atol=1 / 255)
    outside = 1 - shown[:, 96:]
    assert torch.allclose(outside, 0.2 * (1 - picture(1, 128, 192)[0, :, 96:]), atol=2 / 255)


def test_lines_say_what_counts(graph, monkeypatch):
    """The encoded size, the share of the picture, and the tokens of each grid."""
    reference = graph.reference("a hat", image=picture(1, 128, 192), mask=box(128, 192, 0, 0, 128, 96), size=128)
    height, width = (8 * side for side in reference.latents.shape[-2:])
    first, second, *doubts = lines(graph, reference, monkeypatch)
    assert first == f"a hat: encoded at {width} x {height}, 50 % of the picture counts"
    grids = [(height // px) * (width // px) for px in (8, 16, 32)]
    counts = ", ".join(f"{tokens // 2} of {tokens}" for tokens in grids)
    assert second == f"tokens inside the mask: {counts} (fine to coarse grid)"
    assert not doubts


def test_a_mask_that_is_nearly_nothing_is_seen(graph, monkeypatch):
    reference = graph.reference(mask=box(128, 128, 64, 64, 66, 66))
    assert "the reference will do next to nothing" in lines(graph, reference, monkeypatch)[-1]
    weighted = graph.mask_weight(graph.reference(mask=box(128, 128, 20, 20, 80, 80)), grow_px=-29)
    assert "the reference will do next to nothing" in lines(graph, weighted, monkeypatch)[-1]


@pytest.mark.parametrize("concept", ["hat", "帽子"])
def test_each_view_is_shown_on_the_node(graph, concept):
    inputs = {"image": picture(1, 128, 96, views=2), "vae": graph.vae, "clip": graph.clip, "caption": "a hat"}
    output = graph.run("MagicFaceReference", **inputs, concept=concept, size=128)
    assert len(output.ui.as_dict()["images"]) == 2
    weighted = graph.run("MagicFaceMaskWeight", reference=output[0], weight=2.0)
    assert len(weighted.ui.as_dict()["images"]) == 2
    assert torch.isfinite(drawn(graph, output[0])).all()


@pytest.mark.parametrize("width", range(208, 512, 48))
def test_views_of_different_notes_have_one_height(graph, width):
    """One view is marked everywhere, the other nearly nowhere, so their lines wrap differently."""
    reference = graph.reference(
        image=picture(1, 512, width - width % 16, views=2),
        mask=torch.cat([torch.ones(1, 512, width - width % 16), box(512, width - width % 16, 9, 9, 29, 29)]),
        size=64,
    )
    assert drawn(graph, reference).shape[0] == 2
