"""One line on the terminal that follows a prompt: which node runs, and how far the sampler is."""

from __future__ import annotations

import sys
from typing import Any

from .client import Prompt

WIDTH = 30


class Progress:
    """A listener for `Client.run`. Off a terminal it prints a line for each node and for each quarter."""

    def __init__(self, prompt: Prompt, names: dict[str, str]) -> None:
        """
        Args:
            prompt: nodes by id.
            names: what a person calls a node class.
        """
        self._names: dict[str, str] = {}
        for node_id, node in prompt.items():
            class_type: str = node["class_type"]
            title: str | None = (node.get("_meta") or {}).get("title")
            self._names[node_id] = title or names.get(class_type, class_type)
        self._left = len(prompt)
        self._live = sys.stdout.isatty()
        self._quarter = 0

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "execution_cached":
            self._left -= len(data["nodes"])
        elif kind == "executing":
            self._end_line()
            if data["node"] is not None:
                self._quarter = 0
                self._show(self._name(data["node"]), f"{self._left} to go")
                self._left -= 1
        elif kind == "progress" and data["max"] > 1:
            self._bar(self._name(data["node"]), data["value"], data["max"])

    def _name(self, node_id: str) -> str:
        return self._names.get(node_id, node_id)

    def _bar(self, name: str, value: int, most: int) -> None:
        quarter = 4 * value // most
        if not self._live and quarter == self._quarter:
            return
        self._quarter = quarter
        filled = WIDTH * value // most
        self._show(name, f"[{'#' * filled}{'.' * (WIDTH - filled)}] {value}/{most}")

    def _show(self, name: str, text: str) -> None:
        line = f"  {name[:36]:36}  {text}"
        print(f"\r{line:79}" if self._live else line, end="" if self._live else "\n", flush=True)

    def _end_line(self) -> None:
        if self._live:
            print()
