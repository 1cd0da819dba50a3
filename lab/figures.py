"""Figures in JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(file: Path) -> Any:
    """Figures that `write` wrote."""
    return json.loads(file.read_text(encoding="utf-8"))


def write(file: Path, figures: Any) -> None:
    """Write figures in place of what a file holds. It has the old or the new ones at any time, never half of them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    part.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    part.replace(file)
