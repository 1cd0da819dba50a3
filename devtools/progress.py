"""Follows a prompt on the terminal: which node runs, and how far the sampler is."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from .client import Prompt

BAR = "  {desc:36.36}  [{bar:30}] {n_fmt}/{total_fmt}"


class Progress:
    """A listener for `Client.run`: a line for each node, and a bar for each node that reports steps."""

    def __init__(self, prompt: Prompt, names: dict[str, str]) -> None:
        """
        Args:
            prompt: nodes by id.
            names: display name by node class.
        """
        self._names: dict[str, str] = {}
        for node_id, node in prompt.items():
            class_type: str = node["class_type"]
            title: str | None = (node.get("_meta") or {}).get("title")
            self._names[node_id] = title or names.get(class_type, class_type)
        self._left = len(prompt)
        self._bar: tqdm[Any] | None = None

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        """Take a websocket message, given its type and its data."""
        if kind == "execution_cached":
            self._left -= len(data["nodes"])
        elif kind == "executing":
            if self._bar is not None:
                self._bar.close()
                self._bar = None
            if data["node"] is not None:
                print(f"  {self._name(data['node'])[:36]:36}  {self._left} to go", flush=True)
                self._left -= 1
        elif kind == "progress" and data["max"] > 1:
            if self._bar is None:
                self._bar = self._new_bar(self._name(data["node"]), data["max"])
            self._bar.update(data["value"] - self._bar.n)

    def _name(self, node_id: str) -> str:
        return self._names.get(node_id, node_id)

    def _new_bar(self, name: str, total: int) -> tqdm[Any]:
        # A log file gets each quarter, a terminal each step. The delay leaves out the empty bar.
        steps = 1 if sys.stdout.isatty() else max(total // 4, 1)
        return tqdm(
            desc=name, total=total, miniters=steps, mininterval=0, maxinterval=float("inf"), delay=1e-9,
            ascii=".#", bar_format=BAR, file=sys.stdout,
        )  # fmt: skip
