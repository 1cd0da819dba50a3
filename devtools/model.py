"""Which model the demo runs with: the one place that names it."""

from __future__ import annotations

import copy
from typing import Any

from .client import Prompt

# The loader in the shipped workflows, which want a full checkpoint, ...
REPLACED = "CheckpointLoaderSimple"
# ... and what stands in for it: a node with the same outputs, MODEL, CLIP, VAE in this order.
LOADER: dict[str, Any] = {"class_type": "MagicFaceTinyModel", "inputs": {"family": "sdxl", "seed": 0}}
# Inputs of other nodes, by class, that suit this model: a picture that a CPU makes within minutes.
INPUTS: dict[str, dict[str, Any]] = {
    "EmptyLatentImage": {"width": 384, "height": 384},
    "MagicFaceReference": {"size": 384},
    "KSampler": {"steps": 20},
}


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
