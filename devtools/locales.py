"""`dev.py locales`: the English texts of the nodes, in the format of the editor's translations."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from .pins import ROOT

LOCALES = ROOT / "locales"
ENGLISH = LOCALES / "en" / "nodeDefs.json"


def main() -> int:
    """Write them. The files of other languages have the same keys and are translated by hand."""
    from . import incore

    incore.prepare()
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    ENGLISH.write_text(json.dumps(english(), indent=1) + "\n", encoding="utf-8")
    print(ENGLISH.relative_to(ROOT))
    return 0


def english() -> dict[str, Any]:
    """Names and tooltips of all nodes, inputs and outputs. A ComfyUI must be prepared; see incore.py."""
    from . import incore

    async def list_nodes() -> list[Any]:
        return await (await incore.load_pack().comfy_entrypoint()).get_node_list()

    return {schema.node_id: _texts(schema) for node in asyncio.run(list_nodes()) for schema in [node.GET_SCHEMA()]}


def _texts(schema: Any) -> dict[str, Any]:
    outputs = {
        # ComfyUI names an unnamed output with underscores; the editor shows its type.
        str(index): {
            "name": output.io_type if output.id.startswith("_") else output.id,
            "tooltip": output.tooltip,
        }
        for index, output in enumerate(schema.outputs)
    }
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs},
        "outputs": outputs,
    }
