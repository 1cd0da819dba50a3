"""Which model the demo runs with: the one place that names it."""

from __future__ import annotations

import copy
from typing import Any

from .client import Prompt

# The loader in the shipped workflows, which want a full checkpoint, ...
REPLACED = "CheckpointLoaderSimple"
# ... and what stands in for it: a node with the same outputs, MODEL, CLIP, VAE in this order.
LOADER: dict[str, Any] = {"class_type": "MagicFaceTinyModel", "inputs": {"family": "portraits", "seed": 0}}
# Inputs of other nodes, by class, that suit this model: it was trained on pictures of this size.
INPUTS: dict[str, dict[str, Any]] = {
    "EmptyLatentImage": {"width": 256, "height": 256},
    "MagicFaceReference": {"size": 256},
    "KSampler": {"steps": 20, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"},
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
