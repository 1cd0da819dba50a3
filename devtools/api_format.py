"""The shipped workflows in API format, made from the files that the graph editor saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .client import Prompt
from .pins import ROOT

WORKFLOWS = ROOT / "workflows"
API_WORKFLOWS = WORKFLOWS / "api"

# Nodes that exist in the editor only.
_NOTES = {"Note", "MarkdownNote"}
_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def api_format(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """Convert a workflow that the editor saved into the format that is queued.

    Args:
        workflow: the parsed JSON; plain nodes only, no subgraphs or reroutes.
        object_info: the server's answer to /object_info, which has the order of the widgets.

    Raises:
        ValueError: the server does not know a node, or a node's widgets do not match its inputs.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        kind = node["type"]
        if kind in _NOTES:
            continue
        if kind not in object_info:
            raise ValueError(f"node {node['id']}: the server does not know {kind}")
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
                # The editor saves another value after each seed, and one for each upload button at the end.
                if options.get("control_after_generate"):
                    names.append(None)
                uploads += bool(options.get("image_upload"))
    names += [None] * uploads
    values = node.get("widgets_values", [])
    if len(values) != len(names):
        raise ValueError(f"node {node['id']} ({node['type']}): {len(values)} widget values for {len(names)} widgets")
    return {name: value for name, value in zip(names, values, strict=True) if name is not None}


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
