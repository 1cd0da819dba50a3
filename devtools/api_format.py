"""API-format twins of the shipped workflows, made from what the graph editor saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .client import Prompt
from .pins import ROOT

WORKFLOWS = ROOT / "workflows"
TWINS = WORKFLOWS / "api"

# Nodes that only the editor knows.
_ON_CANVAS_ONLY = {"Note", "MarkdownNote"}
_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def api_format(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """A workflow as the editor saves it, in the form that is queued.

    Args:
        workflow: the parsed JSON; plain nodes only, no subgraphs or reroutes.
        object_info: the server's answer to /object_info, which tells the order of the widgets.

    Raises:
        ValueError: a node that the server does not know, or widgets that do not fit it.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        kind = node["type"]
        if kind in _ON_CANVAS_ONLY:
            continue
        if kind not in object_info:
            raise ValueError(f"node {node['id']}: the server knows no {kind}")
        inputs = _widgets(node, object_info[kind])
        inputs |= {i["name"]: sources[i["link"]] for i in node["inputs"] if i.get("link") is not None}
        prompt[str(node["id"])] = {
            "class_type": kind,
            "inputs": inputs,
            "_meta": {"title": node.get("title") or object_info[kind]["display_name"]},
        }
    return prompt


def _widgets(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The values of a node's widgets by input name."""
    names: list[str | None] = []
    uploads = 0
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, options = (*info["input"][group][name], {})[:2]
            if (isinstance(kind, list) or kind in _WIDGET_TYPES) and not options.get("forceInput"):
                names.append(name)
                # The editor keeps a value of its own behind each seed, and one for each upload button at the end.
                if options.get("control_after_generate"):
                    names.append(None)
                uploads += bool(options.get("image_upload"))
    names += [None] * uploads
    values = node.get("widgets_values", [])
    if len(values) != len(names):
        raise ValueError(f"node {node['id']} ({node['type']}): {len(values)} widget values for {len(names)} widgets")
    return {name: value for name, value in zip(names, values, strict=True) if name is not None}


def write_twins(object_info: dict[str, Any]) -> list[Path]:
    """Write the twin of every shipped workflow; returns the files."""
    written = []
    for file in sorted(WORKFLOWS.glob("*.json")):
        prompt = api_format(json.loads(file.read_text(encoding="utf-8")), object_info)
        twin = TWINS / file.name
        twin.parent.mkdir(exist_ok=True)
        twin.write_text(json.dumps(prompt, indent=1) + "\n", encoding="utf-8")
        written.append(twin)
    return written
