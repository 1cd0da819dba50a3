"""For scripts that queue a shipped workflow: the small model replaces a checkpoint that this server does not have.

`web/stand_in.js` does so in the editor, where sizes and settings follow too; here those of the script count.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import folder_paths

_STAND_IN = json.loads((Path(__file__).parent / "web" / "stand_in.json").read_text(encoding="utf-8"))


def replace_missing(body: dict[str, Any]) -> dict[str, Any]:
    """The body of a request to /prompt, in which the small model is in place of checkpoints that are not there."""
    there = folder_paths.get_filename_list("checkpoints")
    for node in body.get("prompt", {}).values():
        if node.get("class_type") == _STAND_IN["replaced"] and node["inputs"].get("ckpt_name") not in there:
            node.update(copy.deepcopy(_STAND_IN["loader"]))
    return body
