"""Beside each neighbour: both act, in any order, and each alone is what it is without the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfyui_version
import pytest
import torch

from devtools.pins import CORES, ROOT
from lab import docs_tables

from .graph import Graph
from .neighbours import NEIGHBOURS, Neighbour, unchanged

pytestmark = pytest.mark.usefixtures("as_node")

SIZE = (16, 16)
ON, OFF = (3.0, 3.0), (0.0, 0.0)


def sampled(graph: Graph, neighbour: Neighbour, model: Any, texts: Any = None) -> torch.Tensor:
    """A latent, with the neighbour's texts and sampler settings; where it is about masks, from left to right."""
    latent = {"samples": torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(2))}
    if neighbour.masked:
        latent["noise_mask"] = torch.linspace(0, 1, SIZE[1]).expand(1, 1, *SIZE).clone()
    positive, negative = texts or neighbour.texts(graph, graph.prompt(), graph.text())
    with torch.random.fork_rng():  # which some neighbours draw from
        torch.manual_seed(0)
        return graph.sample(model, positive, negative, latent=latent, **neighbour.sampling)


def ours_alone(graph: Graph, neighbour: Neighbour) -> torch.Tensor:
    """The method's latent without the neighbour."""
    plain = graph.prompt(), graph.text()
    return sampled(graph, neighbour, graph.apply(graph.model, *graph.two(*ON)), plain)


def with_both(graph: Graph, neighbour: Neighbour, *weights: float) -> Iterator[tuple[str, Any]]:
    """Models patched by both: ours behind the neighbour, before it, and on both sides of it."""
    references = graph.two(*weights)
    yield "behind", graph.apply(neighbour.model(graph, graph.model), *references)
    before = neighbour.model(graph, graph.apply(graph.model, *references))
    yield "before", before
    yield "both sides", graph.apply(before, *references)


def twice(graph: Graph, neighbour: Neighbour) -> tuple[torch.Tensor, torch.Tensor]:
    """The neighbour two times: on both sides of ours, and both before it."""
    references, other = graph.two(*ON), neighbour.model
    around = other(graph, graph.apply(other(graph, graph.model), *references))
    behind = graph.apply(other(graph, other(graph, graph.model)), *references)
    return sampled(graph, neighbour, around), sampled(graph, neighbour, behind)


@pytest.fixture(scope="module")
def known() -> dict[Any, torch.Tensor]:
    """The method's own latents, from before the first neighbour: by family and settings."""
    return {}


@pytest.mark.parametrize("neighbour", NEIGHBOURS, ids=lambda neighbour: neighbour.name)
def test_neighbours(graph_of, neighbour, known):
    if neighbour.missing:
        pytest.skip(neighbour.missing)
    graph = graph_of(neighbour.family)
    settings = neighbour.family, neighbour.masked, tuple(neighbour.sampling.items())
    if settings not in known:
        known[settings] = ours_alone(graph, neighbour)
    ours, alone = known[settings], sampled(graph, neighbour, neighbour.model(graph, graph.model))
    if neighbour.refused:
        check_refused(graph, neighbour)
    else:
        check_together(graph, neighbour, ours, alone)
    for order, model in with_both(graph, neighbour, *OFF):
        assert torch.equal(sampled(graph, neighbour, model), alone), f"{order}: weight 0 is not the neighbour alone"
    assert torch.equal(ours_alone(graph, neighbour), ours), "something of the neighbour is left"


def check_refused(graph: Graph, neighbour: Neighbour) -> None:
    """In any order a run ends in an error that names the block and the neighbour's callable."""
    for order, model in with_both(graph, neighbour, *ON):
        with pytest.raises(ValueError) as error:
            sampled(graph, neighbour, model)
        for word in ("MagicFace: block ", *neighbour.refused, "HyperTile and token merging", "remove it"):
            assert word in str(error.value), order


def check_together(graph: Graph, neighbour: Neighbour, ours: torch.Tensor, alone: torch.Tensor) -> None:
    """In any order both act, and the order counts for nothing; nor does it where the neighbour is there twice."""
    latents = []
    for order, model in with_both(graph, neighbour, *ON):
        latents.append(sampled(graph, neighbour, model))
        regions = torch.stack(graph.recorded(latents[-1])[0])
        assert torch.isfinite(latents[-1]).all(), order
        assert {0, 1} & set(regions.flatten().tolist()), f"{order}: no regions"
        assert (latents[-1] - alone).abs().max() > 0.1, f"{order}: the method does not act"
        assert ((latents[-1] - ours).abs().max() > 1e-3) == neighbour.changes, f"{order}: what the neighbour does"
        assert torch.equal(latents[-1], latents[0]), f"{order}: the order counts"
    if neighbour.model is not unchanged and not neighbour.once:
        around, behind = twice(graph, neighbour)
        assert torch.isfinite(around).all() and torch.equal(around, behind), "the neighbour twice"


def test_the_table_in_the_docs():
    """`dev.py docs` writes it. The newest core has all neighbours."""
    if comfyui_version.__version__ != CORES["newest"].version:
        pytest.skip("the table is that of the newest ComfyUI")
    assert not [neighbour.missing for neighbour in NEIGHBOURS if neighbour.missing]
    text = (ROOT / "docs" / "neighbours.md").read_text(encoding="utf-8")
    known = {"neighbours": lambda: docs_tables.neighbour_table(NEIGHBOURS)}
    assert docs_tables.rendered(text, known) == text, "old: python dev.py docs"
