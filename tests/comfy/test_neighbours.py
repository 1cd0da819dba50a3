"""With each neighbour: both act, in any order, and each one alone gives the same picture as without the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfyui_version
import pytest
import torch

from devtools.pins import CORES, ROOT
from lab import docs_tables

from .graph import Graph
from .neighbours import NEIGHBOURS, Neighbour, leave_model

pytestmark = pytest.mark.usefixtures("as_node")

SIZE = (16, 16)
ON, OFF = (3.0, 3.0), (0.0, 0.0)


def sample(graph: Graph, neighbour: Neighbour, model: Any, texts: Any = None) -> torch.Tensor:
    """A latent sampled with the neighbour's texts, sampler settings and, if it needs one, a noise mask."""
    latent = {"samples": torch.randn(neighbour.batch, 4, *SIZE, generator=torch.Generator().manual_seed(2))}
    if neighbour.masked:
        latent["noise_mask"] = torch.linspace(0, 1, SIZE[1]).expand(1, 1, *SIZE).clone()
    positive, negative = texts or neighbour.texts(graph, graph.prompt(), graph.text())
    with torch.random.fork_rng():  # some neighbours use the global generator
        torch.manual_seed(0)
        return graph.sample(model, positive, negative, latent=latent, **neighbour.sampling)


def method_alone(graph: Graph, neighbour: Neighbour) -> torch.Tensor:
    """The latent of the method without the neighbour."""
    plain = graph.prompt(), graph.text()
    return sample(graph, neighbour, graph.apply(graph.model, *graph.two_references(*ON)), plain)


def models_with_both(graph: Graph, neighbour: Neighbour, *weights: float) -> Iterator[tuple[str, Any]]:
    """Models patched by both: MagicFace after the neighbour, before it, and both before and after."""
    references = graph.two_references(*weights)
    yield "behind", graph.apply(neighbour.model(graph, graph.model), *references)
    before = neighbour.model(graph, graph.apply(graph.model, *references))
    yield "before", before
    yield "both sides", graph.apply(before, *references)


def latents_with_two(graph: Graph, neighbour: Neighbour) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents with the neighbour applied twice: before and after MagicFace, and twice before it."""
    references, other = graph.two_references(*ON), neighbour.model
    around = other(graph, graph.apply(other(graph, graph.model), *references))
    behind = graph.apply(other(graph, other(graph, graph.model)), *references)
    return sample(graph, neighbour, around), sample(graph, neighbour, behind)


@pytest.fixture(scope="module")
def method_latents() -> dict[Any, torch.Tensor]:
    """Latents of the method alone, sampled before any neighbour was applied, by family and settings."""
    return {}


@pytest.mark.parametrize("neighbour", NEIGHBOURS, ids=lambda neighbour: neighbour.name)
def test_neighbour_and_method_work_together_or_are_refused(graph_of, neighbour, method_latents):
    if neighbour.missing:
        pytest.skip(neighbour.missing)
    graph = graph_of(neighbour.family)
    settings = neighbour.family, neighbour.masked, neighbour.batch, tuple(neighbour.sampling.items())
    if settings not in method_latents:
        method_latents[settings] = method_alone(graph, neighbour)
    ours, alone = method_latents[settings], sample(graph, neighbour, neighbour.model(graph, graph.model))
    if neighbour.refused:
        check_refused(graph, neighbour)
    else:
        check_together(graph, neighbour, ours, alone)
    for order, model in models_with_both(graph, neighbour, *OFF):
        if neighbour.refused_after and order == "before":
            assert_refused(graph, neighbour, model, neighbour.refused_after, order)
        else:
            assert torch.equal(sample(graph, neighbour, model), alone), f"{order}: weight 0 is not the neighbour alone"
    assert torch.equal(method_alone(graph, neighbour), ours), "the neighbour has changed later runs"


def check_refused(graph: Graph, neighbour: Neighbour) -> None:
    """Assert that in any order a run ends with the error of the row."""
    for order, model in models_with_both(graph, neighbour, *ON):
        assert_refused(graph, neighbour, model, neighbour.refused, order)


def assert_refused(graph: Graph, neighbour: Neighbour, model: Any, words: tuple[str, ...], order: str) -> None:
    with pytest.raises(graph.sampling_error) as error:
        sample(graph, neighbour, model)
    for word in words:
        assert word in str(error.value), order


def check_together(graph: Graph, neighbour: Neighbour, ours: torch.Tensor, alone: torch.Tensor) -> None:
    """Assert that both act and that the order does not matter, even if the neighbour is applied twice."""
    latents = []
    for order, model in models_with_both(graph, neighbour, *ON):
        if neighbour.refused_after and order == "before":
            assert_refused(graph, neighbour, model, neighbour.refused_after, order)
            continue
        latents.append(sample(graph, neighbour, model))
        assert torch.isfinite(latents[-1]).all(), order
        check_run(graph, neighbour, latents[-1], order)
        assert (latents[-1] - alone).abs().amax((1, 2, 3)).min() > 0.1, f"{order}: the method does not act"
        assert ((latents[-1] - ours).abs().max() > 1e-3) == neighbour.changes, (
            f"{order}: whether the neighbour changes the picture"
        )
        assert torch.equal(latents[-1], latents[0]), f"{order}: the order changes the picture"
    if neighbour.model is not leave_model and not neighbour.once:
        around, behind = latents_with_two(graph, neighbour)
        assert torch.isfinite(around).all() and torch.equal(around, behind), "the neighbour twice"


def check_run(graph: Graph, neighbour: Neighbour, latent: torch.Tensor, order: str) -> None:
    """Assert that each image of a latent has regions, and that its run has the finding of the row."""
    for steps in graph.regions_by_step(latent):
        assert steps and {0, 1} & set(torch.stack(steps).flatten().tolist()), f"{order}: no regions"
    if neighbour.finding:
        findings = "\n".join(finding for history, _ in graph.runs(latent) for finding in history.findings)
        assert neighbour.finding in findings, order


def test_the_table_in_the_docs_is_up_to_date():
    """`dev.py docs` writes the table. The newest ComfyUI has all neighbours."""
    if comfyui_version.__version__ != CORES["newest"].version:
        pytest.skip("the table is made with the newest ComfyUI")
    assert not [neighbour.missing for neighbour in NEIGHBOURS if neighbour.missing]
    text = (ROOT / "docs" / "neighbours.md").read_text(encoding="utf-8")
    tables = {"neighbours": docs_tables.neighbour_table(NEIGHBOURS)}
    assert docs_tables.render(text, tables) == text, "out of date; run python dev.py docs"
