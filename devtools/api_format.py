"""The shipped workflows in API format, made from the files that the graph editor saves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import Prompt
from .pins import ROOT

WORKFLOWS = ROOT / "workflows"
API_WORKFLOWS = WORKFLOWS / "api"

# Nodes that exist in the editor only.
_NOTES = {"Note", "MarkdownNote"}
_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


# Where the links inside a subgraph begin that come from its own inputs.
_GIVEN = -10


def api_format(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """Convert a workflow that the editor saved into the format that is queued.

    The nodes of a subgraph get ids such as "30:301": that of the node that stands for it, and their own.

    Args:
        workflow: the parsed JSON, without reroutes and without muted or bypassed nodes.
        object_info: the server's answer to /object_info, which has the order of the widgets.

    Raises:
        ValueError: the server does not know a node, or a node's widgets do not match its inputs.
    """
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    subgraphs = {subgraph["id"]: subgraph for subgraph in workflow.get("definitions", {}).get("subgraphs", [])}
    prompt: Prompt = {}
    _add_nodes(prompt, _Graph(workflow["nodes"], links, subgraphs), object_info)
    return prompt


@dataclass(frozen=True, eq=False)
class _Graph:
    """The workflow's own graph, or the inside of one subgraph node.

    Attributes:
        nodes: as saved.
        links: where each link begins, by its id: the id of a node, and the index of its output.
        subgraphs: the workflow's subgraphs by id.
        subgraph: the one that this is the inside of.
        host: the node that stands for it, which is in `parent`.
    """

    nodes: list[dict[str, Any]]
    links: dict[int, tuple[int, int]]
    subgraphs: dict[str, dict[str, Any]]
    subgraph: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    parent: _Graph | None = None
    path: str = ""

    def inside(self, node: dict[str, Any]) -> _Graph:
        """The inside of a subgraph node."""
        subgraph = self.subgraphs[node["type"]]
        links = {link["id"]: (link["origin_id"], link["origin_slot"]) for link in subgraph["links"]}
        return _Graph(subgraph["nodes"], links, self.subgraphs, subgraph, node, self, f"{self.path}{node['id']}:")

    def source(self, link: int) -> dict[str, Any]:
        """What a link brings, as {"value": ...}: an output in API format, or a widget's value; {} for nothing."""
        origin, index = self.links[link]
        if origin == _GIVEN:
            return self._given(self.subgraph["inputs"][index]["name"])
        (node,) = (node for node in self.nodes if node["id"] == origin)
        if node["type"] not in self.subgraphs:
            return {"value": [f"{self.path}{origin}", index]}
        inside = self.inside(node)
        (inner,) = inside.subgraph["outputs"][index]["linkIds"]
        return inside.source(inner)

    def _given(self, name: str) -> dict[str, Any]:
        """What an input of the subgraph has where the subgraph is used."""
        assert self.parent is not None
        (given,) = (one for one in self.host["inputs"] if one["name"] == name)
        if given.get("link") is not None:
            return self.parent.source(given["link"])
        widgets = [one["name"] for one in self.host["inputs"] if "widget" in one]
        # Values that are missing at the end are those of the nodes inside.
        values = dict(zip(widgets, self.host.get("widgets_values", []), strict=False))
        return {"value": values[name]} if name in values else {}


def _add_nodes(prompt: Prompt, graph: _Graph, object_info: dict[str, Any]) -> None:
    """Add the nodes of a graph and of the subgraphs in it."""
    for node in graph.nodes:
        kind = node["type"]
        if kind in _NOTES:
            continue
        if kind in graph.subgraphs:
            _add_nodes(prompt, graph.inside(node), object_info)
            continue
        if kind not in object_info:
            raise ValueError(f"node {node['id']}: the server does not know {kind}")
        inputs = _widgets(node, object_info[kind])
        for one in node["inputs"]:
            found = graph.source(one["link"]) if one.get("link") is not None else {}
            if found:
                inputs[one["name"]] = found["value"]
        prompt[f"{graph.path}{node['id']}"] = {
            "class_type": kind,
            "inputs": inputs,
            "_meta": {"title": node.get("title") or object_info[kind]["display_name"]},
        }


def _widgets(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The values of a node's widgets by input name; values that are missing at the end are the inputs' defaults."""
    names: list[str | None] = []
    defaults: list[Any] = []
    uploads = 0
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, options = (*info["input"][group][name], {})[:2]
            if (isinstance(kind, list) or kind in _WIDGET_TYPES) and not options.get("forceInput"):
                names.append(name)
                defaults.append(options.get("default"))
                # The editor saves another value after each seed, and one for each upload button at the end.
                if options.get("control_after_generate"):
                    names.append(None)
                    defaults.append(None)
                uploads += bool(options.get("image_upload"))
    names += [None] * uploads
    defaults += [None] * uploads
    values = node.get("widgets_values", [])
    missing = defaults[len(values) :]
    if len(values) > len(names) or (missing and None in missing):
        raise ValueError(f"node {node['id']} ({node['type']}): {len(values)} widget values for {len(names)} widgets")
    return {name: value for name, value in zip(names, [*values, *missing], strict=True) if name is not None}


def write_api_workflows(object_info: dict[str, Any]) -> list[Path]:
    """Write every shipped workflow in API format; returns the files."""
    written = []
    for file in sorted(WORKFLOWS.glob("*.json")):
        prompt = api_format(json.loads(file.read_text(encoding="utf-8")), object_info)
        target = API_WORKFLOWS / file.name
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(prompt, indent=1) + "\n", encoding="utf-8")
        written.append(target)
    return written
