"""Which model the demo runs with; `stand_in.json`, which the editor of `dev.py serve` reads too, names it."""

from __future__ import annotations

import copy
import json
from typing import Any

from .client import Prompt
from .pins import ROOT

_STAND_IN = json.loads((ROOT / "devtools" / "tiny_pack" / "web" / "stand_in.json").read_text(encoding="utf-8"))
# The loader in the shipped workflows, which want a full checkpoint, ...
REPLACED: str = _STAND_IN["replaced"]
# ... and what stands in for it: a node with the same outputs, MODEL, CLIP, VAE in this order.
LOADER: dict[str, Any] = _STAND_IN["loader"]
# Inputs of other nodes, by class, that suit this model: it was trained on pictures of this size.
INPUTS: dict[str, dict[str, Any]] = _STAND_IN["inputs"]


def with_model(prompt: Prompt) -> Prompt:
    """A copy of a prompt that uses this model; where it uses no checkpoint, it stays as it is."""
    prompt = copy.deepcopy(prompt)
    if not any(node["class_type"] == REPLACED for node in prompt.values()):
        return prompt
    for node_id, node in prompt.items():
        if node["class_type"] == REPLACED:
            prompt[node_id] = copy.deepcopy(LOADER)
        else:
            node["inputs"].update(INPUTS.get(node["class_type"], {}))
    return prompt
