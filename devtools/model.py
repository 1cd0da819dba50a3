"""The model that replaces checkpoints in demos and tests; `stand_in.json` names it, for the browser too."""

from __future__ import annotations

import copy
import json
from typing import Any

from .client import Prompt
from .pins import ROOT

_STAND_IN = json.loads((ROOT / "devtools" / "tiny_pack" / "web" / "stand_in.json").read_text(encoding="utf-8"))
# The loader in the shipped workflows, which load a full checkpoint, ...
REPLACED: str = _STAND_IN["replaced"]
# ... and the node that replaces it, with the same outputs MODEL, CLIP, VAE in this order.
LOADER: dict[str, Any] = _STAND_IN["loader"]
# Inputs of other nodes, by class, that suit this model, such as the picture size that it was trained with.
INPUTS: dict[str, dict[str, Any]] = _STAND_IN["inputs"]


def with_model(prompt: Prompt) -> Prompt:
    """A copy of a prompt that uses this model. A prompt without a checkpoint is not changed."""
    prompt = copy.deepcopy(prompt)
    if not any(node["class_type"] == REPLACED for node in prompt.values()):
        return prompt
    for node_id, node in prompt.items():
        if node["class_type"] == REPLACED:
            prompt[node_id] = copy.deepcopy(LOADER)
        else:
            node["inputs"].update(INPUTS.get(node["class_type"], {}))
    return prompt
