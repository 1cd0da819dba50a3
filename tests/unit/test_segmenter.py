"""From the conds of an evaluation to the regions of the whole picture, and from regions to a block's queries."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import torch
from magicface.attention.attend import TorchAttend
from magicface.attention.regions import Regions
from magicface.sampling.conditioning.prompt import PromptTokens
from magicface.sampling.conditioning.roles import Area, CondRow, Role
from magicface.sampling.method import Method, Reference, Schedule
from magicface.sampling.references.noise import SeededNoise
from magicface.sampling.regions.index import RegionIndex
from magicface.sampling.regions.segmenter import Segmenter
from oracle import images as oracle_images
from oracle import regions as oracle
from scenes import generator_of, normal
from torch import Tensor

CPU = torch.device("cpu")
SIZE_LAT = (8, 12)
SHAPE = (2, 4, *SIZE_LAT)
GRID = (4, 6)
WORDS = (None, 11, 12, 13, None)
TAG_OF_PROMPT = PromptTokens("eleven twelve thirteen", WORDS, (0,))


def method_of(*phrases: tuple[int, ...], off: tuple[int, ...] = (), **schedule: Any) -> Method:
    """A method with concepts of these tokens; those whose first token is in `off` have weight 0."""
    latents, masks = torch.zeros(1, 4, 8, 8), torch.ones(1, 64, 64)
    references = tuple(
        Reference("", phrase, "", [], latents, masks, *((0.0, 0.0) if phrase[0] in off else (2.0, 2.0)))
        for phrase in phrases
    )
    return Method(references, Schedule(**schedule), (), (), SeededNoise(0), Segmenter)


def row_of(
    role: Role,
    area: Area | None = None,
    mask: Tensor | None = None,
    tag: PromptTokens | None = TAG_OF_PROMPT,
    zeroed: bool = False,
    **options: Any,
) -> CondRow:
    """A cond with five tokens."""
    return CondRow(role, {"uuid": uuid.uuid4(), **options}, area, mask, len(WORDS), tag, zeroed)


def regions_of(segmenter: Segmenter, *rows: CondRow) -> Regions | None:
    """The regions found for an evaluation's conds."""
    return segmenter.regions({(index, row.cond["uuid"]): row for index, row in enumerate(rows)}, CPU)


def feed(segmenter: Segmenter, row: CondRow, seed: int, images: int = 2) -> tuple[Tensor, Tensor]:
    """Give a cond random attention on its grid; returns its A and F as computed by the oracle."""
    g = generator_of(seed)
    height, width = SIZE_LAT if row.area is None else row.area[:2]
    grid = ((height + 1) // 2, (width + 1) // 2)
    n = grid[0] * grid[1]
    q, k, cross = normal(g, images, n, 8), normal(g, images, n, 8), torch.rand(images, n, 5, generator=g) ** 3
    maps = segmenter.new_maps(row, (height, width), range(images))
    assert maps is not None
    maps.add(cross, q, k, grid, TorchAttend(2))
    each, both = [], []
    for image in range(images):
        smooth = oracle.power_average(cross[image], oracle.self_map(q[image], k[image], 2))
        tokens = oracle_images.blur(smooth.T.reshape(5, *grid))
        each.append(torch.stack([oracle_images.over_mean(token) for token in tokens]))
        both.append(torch.stack([oracle_images.over_mean(tokens[0]), oracle_images.over_mean(tokens[1:].sum(dim=0))]))
    return torch.stack(each), torch.stack(both)


def assert_regions(found: Regions | None, tokens: Tensor, background: Tensor, phrases: list[list[int]]) -> None:
    """Assert the regions of one cond without an area, with two active concepts."""
    assert found is not None
    for image in range(len(tokens)):
        foreground = background[image, 0] <= background[image, 1]
        expected = oracle.segment(tokens[image], foreground, phrases, suppression=0.6, cut=True)
        assert torch.equal(found.foreground[image], foreground)
        assert torch.equal(found.labels[image], expected[0])
        assert torch.equal(found.concepts[image], expected[1])


def test_the_foreground_comes_from_the_negative_prompt_if_there_is_one() -> None:
    method, phrases = method_of((12,), (13,)), [[2], [3]]
    positive, negative, second = row_of("positive"), row_of("negative", tag=None), row_of("negative")
    alone, against = Segmenter(method, SHAPE), Segmenter(method, SHAPE)
    tokens, own = feed(alone, positive, seed=1)
    assert_regions(regions_of(alone, positive), tokens, own, phrases)

    feed(against, positive, seed=1)
    _, uncond = feed(against, negative, seed=2)
    assert not torch.equal(uncond[:, 0] <= uncond[:, 1], own[:, 0] <= own[:, 1])
    assert_regions(regions_of(against, positive, negative), tokens, uncond, phrases)
    _, other = feed(against, second, seed=3)
    assert_regions(regions_of(against, negative, positive, second), tokens, (uncond + other) / 2, phrases)


def test_a_zeroed_negative_prompt_does_not_count() -> None:
    segmenter, positive = Segmenter(method_of((12,), (13,)), SHAPE), row_of("positive")
    zeroed = row_of("negative", zeroed=True)
    tokens, own = feed(segmenter, positive, seed=1)
    assert segmenter.new_maps(zeroed, SIZE_LAT, (0,)) is None
    assert_regions(regions_of(segmenter, positive, zeroed), tokens, own, [[2], [3]])


def test_an_inactive_concept_has_no_tokens() -> None:
    segmenter, row = Segmenter(method_of((12,), (13,), off=(12,), suppression=0.6), SHAPE), row_of("positive")
    tokens, own = feed(segmenter, row, seed=1)
    assert_regions(regions_of(segmenter, row), tokens, own, [[], [3]])


def test_conds_without_maps_have_no_regions() -> None:
    segmenter = Segmenter(method_of((12,)), SHAPE)
    textless = CondRow("positive", {"uuid": 1}, None, None, 0, TAG_OF_PROMPT)
    silent = [row_of("other"), row_of("positive", tag=None), textless]
    for row in silent:
        assert segmenter.new_maps(row, SIZE_LAT, (0,)) is None
    negative, never_called = row_of("negative"), row_of("positive")
    feed(segmenter, negative, seed=1)
    assert segmenter.new_maps(never_called, SIZE_LAT, (0,)) is not None
    assert regions_of(segmenter, *silent, negative, never_called) is None


def assert_nothing_at(found: Regions, where: Tensor) -> None:
    """Assert that there is no token, no concept and no foreground at these pixels."""
    where = where.expand(found.labels.shape)
    assert (found.labels[where] == -1).all() and (found.concepts[where] == -1).all()
    assert not found.foreground[where].any()


def test_an_area_is_pasted_at_its_location() -> None:
    area: Area = (4, 6, 2, 4)  # height, width, top, left
    segmenter, row = Segmenter(method_of((12,), (13,)), SHAPE), row_of("positive", area)
    tokens, own = feed(segmenter, row, seed=1)
    part, found = expected_regions(tokens, own), regions_of(segmenter, row)
    assert found is not None and found.labels.shape == (2, *GRID)
    inside = (slice(None), slice(1, 3), slice(2, 5))
    assert torch.equal(found.labels[inside], part[0]) and torch.equal(found.concepts[inside], part[1])
    assert torch.equal(found.foreground[inside], own[:, 0] <= own[:, 1])
    outside = torch.ones(2, *GRID, dtype=torch.bool)
    outside[inside] = False
    assert_nothing_at(found, outside)


def test_a_negative_prompt_of_another_area_does_not_count() -> None:
    segmenter, positive = Segmenter(method_of((12,), (13,)), SHAPE), row_of("positive")
    negative = row_of("negative", area=(8, 6, 0, 0))
    tokens, own = feed(segmenter, positive, seed=1)
    feed(segmenter, negative, seed=2)
    assert_regions(regions_of(segmenter, positive, negative), tokens, own, [[2], [3]])


def expected_regions(tokens: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and concepts of both images, for phrases of token 2 and of token 3."""
    foreground = background[:, 0] <= background[:, 1]
    both = [oracle.segment(tokens[image], foreground[image], [[2], [3]], 0.6, cut=True) for image in range(2)]
    return torch.stack([found[0] for found in both]), torch.stack([found[1] for found in both])


def test_nothing_is_found_outside_a_conds_mask() -> None:
    mask = torch.zeros(1, *SIZE_LAT)
    mask[:, :, 6:] = 0.2
    whole, masked = row_of("positive"), row_of("positive", mask=mask)
    segmenter = Segmenter(method_of((12,), (13,)), SHAPE)
    for row in (whole, masked):
        feed(segmenter, row, seed=1)
    all_of_it, found = regions_of(segmenter, whole), regions_of(segmenter, masked)
    assert all_of_it is not None and found is not None
    for name in ("labels", "concepts", "foreground"):
        assert torch.equal(getattr(found, name)[..., 3:], getattr(all_of_it, name)[..., 3:])
    assert_nothing_at(found, torch.arange(GRID[1]) < 3)


def test_a_default_cond_counts_where_no_other_cond_applies() -> None:
    default, left = row_of("positive", default=True), row_of("positive", area=(8, 6, 0, 0))
    segmenter = Segmenter(method_of((12,), (13,)), SHAPE)
    feed(segmenter, default, seed=1)
    everywhere = regions_of(segmenter, default)
    beside = regions_of(segmenter, default, left)  # `left` has not been called
    assert everywhere is not None and beside is not None
    assert torch.equal(beside.labels[..., 3:], everywhere.labels[..., 3:])
    assert_nothing_at(beside, torch.arange(GRID[1]) < 3)


@pytest.mark.parametrize("called_in_order", [True, False])
def test_two_prompts_are_united_and_the_later_concept_wins(called_in_order: bool) -> None:
    """If both claim a pixel for the same concept, the first prompt wins, whichever was called first."""
    segmenter, rows = Segmenter(method_of((12,), (13,)), SHAPE), [row_of("positive"), row_of("positive")]
    for seed in (0, 1) if called_in_order else (1, 0):
        feed(segmenter, rows[seed], seed)
    one, other, found = regions_of(segmenter, rows[0]), regions_of(segmenter, rows[1]), regions_of(segmenter, *rows)
    assert one is not None and other is not None and found is not None
    assert torch.equal(found.concepts, torch.maximum(one.concepts, other.concepts))
    assert torch.equal(found.foreground, one.foreground | other.foreground)
    assert found.label_count == 10
    for pixel in range(found.labels.numel()):
        mine, theirs = int(one.labels.flatten()[pixel]), int(other.labels.flatten()[pixel])
        by_concept = int(other.concepts.flatten()[pixel]) > int(one.concepts.flatten()[pixel])
        expected = theirs + 5 if theirs >= 0 and (by_concept or mine < 0) else mine
        assert int(found.labels.flatten()[pixel]) == expected


def test_the_rule_of_an_area_is_that_of_its_part_of_the_picture() -> None:
    concepts = torch.tensor([[[0, 0, 1, 1], [0, -1, 1, 1], [2, 2, 2, 2]]])
    index = RegionIndex(Regions(concepts, concepts, concepts >= 0, 3))

    def groups(area: Area | None, grid: tuple[int, int]) -> dict[int, list[int]]:
        rule = index.rule(area, grid, CPU, (0,))
        assert rule.labels is not None and rule.labels.shape == (1, grid[0] * grid[1])
        found = {label: queries.tolist() for label, queries in rule.groups[0]}
        assert all(rule.labels[0, queries].tolist() == [label] * len(queries) for label, queries in found.items())
        return found

    assert groups(None, (3, 4)) == {0: [0, 1, 4], -1: [5], 1: [2, 3, 6, 7], 2: [8, 9, 10, 11]}
    assert groups((4, 4, 0, 2), (2, 2)) == {0: [0], 1: [1, 3], -1: [2]}
    assert groups((2, 8, 4, 0), (1, 2)) == {2: [0, 1]}
    assert index.rule(None, (3, 4), CPU, (0,)) is index.rule(None, (3, 4), CPU, (0,))
    assert torch.equal(index.foreground, concepts >= 0) and torch.equal(index.concepts, concepts)
