"""How the shipped workflows and blueprints are laid out: on one grid, no node over another, no wire behind a node."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted(ROOT.glob("workflows/*.json"))
BLUEPRINTS = sorted(ROOT.glob("subgraphs/*.json"))
COLUMN_PX, GRID_PX, TITLE_PX, SLOT_PX = 500, 20, 30, 20
MAX_NODES_WITH_BLUEPRINTS = 12
NOTE = "MarkdownNote"


def read(file: Path) -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return workflow


def box(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top with the title, right, bottom."""
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE_PX, left + width, top + height


def wire(source: dict[str, Any], output: int, target: dict[str, Any], index: int) -> list[tuple[float, float]]:
    """Points of the curve that the editor draws for a link."""
    start = source["pos"][0] + source["size"][0], source["pos"][1] + SLOT_PX * (output + 0.7)
    end = target["pos"][0], target["pos"][1] + SLOT_PX * (index + 0.7)
    reach = 0.25 * math.dist(start, end)
    across, down = (start[0], start[0] + reach, end[0] - reach, end[0]), (start[1], start[1], end[1], end[1])

    def at(t: float, points: tuple[float, ...]) -> float:
        a, b, c, d = points
        return a * (1 - t) ** 3 + 3 * b * (1 - t) ** 2 * t + 3 * c * (1 - t) * t**2 + d * t**3

    return [(at(t / 200, across), at(t / 200, down)) for t in range(201)]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_nodes_are_on_the_grid_and_wires_beside_nodes(file: Path) -> None:
    workflow = read(file)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for node in nodes.values():
        assert node["pos"][0] % COLUMN_PX == 0 and node["pos"][1] % GRID_PX == 0, node["type"]
    for one, other in combinations(nodes.values(), 2):
        (left, top, right, bottom), (left2, top2, right2, bottom2) = box(one), box(other)
        apart = right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
        assert apart, f"nodes {one['id']} and {other['id']}"
    for number, source, output, target, index, _ in workflow["links"]:
        points = wire(nodes[source], output, nodes[target], index)
        for node in nodes.values():
            left, top, right, bottom = box(node)
            if node["id"] in (source, target):
                left, right = left + 8, right - 8  # the ends of the wire are at the node's edge
            behind = any(left < x < right and top < y < bottom for x, y in points)
            assert not behind, f"link {number} from {source} to {target} is behind node {node['id']}"


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_short_note_says_what_to_change(file: Path) -> None:
    (note,) = (node for node in read(file)["nodes"] if node["type"] == NOTE)
    (text,) = note["widgets_values"]
    assert "What to change" in text
    assert len(text.split()) < 170


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_blueprints_leave_few_nodes_to_look_at(file: Path) -> None:
    workflow = read(file)
    if "definitions" in workflow:
        assert len(workflow["nodes"]) <= MAX_NODES_WITH_BLUEPRINTS


@pytest.mark.parametrize("file", [*WORKFLOWS, *BLUEPRINTS], ids=lambda file: file.stem)
def test_ids_are_unique(file: Path) -> None:
    """The editor gives new ids to nodes and links that share one, also in different subgraphs: API ids would differ."""
    workflow = read(file)
    subgraphs = workflow.get("definitions", {}).get("subgraphs", [])
    nodes = [node["id"] for graph in (workflow, *subgraphs) for node in graph["nodes"]]
    links = [link[0] for link in workflow["links"]] + [link["id"] for graph in subgraphs for link in graph["links"]]
    assert len(set(nodes)) == len(nodes) and len(set(links)) == len(links)


@pytest.mark.parametrize("file", BLUEPRINTS, ids=lambda file: file.stem)
def test_a_blueprint_is_one_node_with_its_name(file: Path) -> None:
    blueprint = read(file)
    (node,), (subgraph,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"]
    assert node["title"] == subgraph["name"] == file.stem
    assert subgraph["description"] and subgraph["category"] == "MagicFace"


def test_workflows_use_the_blueprints_as_they_are() -> None:
    """Only captions, words and other values of the inputs differ, and labels."""
    shipped = {file.stem: shape(read(file)["definitions"]["subgraphs"][0]) for file in BLUEPRINTS}
    used = [subgraph for file in WORKFLOWS for subgraph in read(file).get("definitions", {}).get("subgraphs", [])]
    assert used
    for subgraph in used:
        if subgraph["name"].startswith("MagicFace"):
            assert shape(subgraph) == shipped[subgraph["name"]]


def shape(subgraph: dict[str, Any]) -> list[Any]:
    """The nodes of a subgraph, its inputs and its links, independent of the numbers of its nodes."""
    numbers = {node["id"]: index for index, node in enumerate(subgraph["nodes"])}
    links = [
        [
            numbers.get(link["origin_id"], -1),
            link["origin_slot"],
            numbers.get(link["target_id"], -1),
            link["target_slot"],
        ]
        for link in subgraph["links"]
    ]
    nodes = [(node["type"], node["pos"], node["size"]) for node in subgraph["nodes"]]
    return [nodes, links, [given["name"] for given in subgraph["inputs"]]]
