"""Checks that this checkout can be published. The publishing workflow runs `python -m devtools.release v0.1.0`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from .pins import ROOT

HEADING = re.compile(r"^## (?P<version>\d+\.\d+\.\d+) - (?P<date>\d{4}-\d{2}-\d{2}|unreleased)$", re.MULTILINE)
# Empty until the owner fills them in.
OWNER_FIELDS = (
    ("project", "urls", "Repository"),
    ("tool", "comfy", "PublisherId"),
    ("tool", "comfy", "Icon"),
    ("tool", "comfy", "Banner"),
)


@dataclass(frozen=True)
class Entry:
    """One version in CHANGELOG.md.

    Attributes:
        version: such as "0.1.0".
        date: ISO date of the release, or "unreleased".
        text: what changed, in Markdown, without the heading.
    """

    version: str
    date: str
    text: str


def entries(changelog: str) -> list[Entry]:
    """The versions of a change log, newest first; a section `## Unreleased` on top is no version."""
    found = list(HEADING.finditer(changelog))
    starts = [match.start() for match in found] + [len(changelog)]
    return [
        Entry(match["version"], match["date"], changelog[match.end() : end].strip())
        for match, end in zip(found, starts[1:], strict=True)
    ]


def metadata(root: Path = ROOT) -> dict[str, Any]:
    """pyproject.toml as plain dictionaries."""
    return tomlkit.parse((root / "pyproject.toml").read_text(encoding="utf-8")).unwrap()


def problems(tag: str, project: dict[str, Any], changelog: str) -> list[str]:
    """The reasons why a release cannot be published; empty if it can.

    Args:
        tag: the git tag, such as "v0.1.0".
        project: content of pyproject.toml.
        changelog: content of CHANGELOG.md.
    """
    version = project["project"]["version"]
    found = []
    if tag != f"v{version}":
        found.append(f"the tag is {tag}, but the version in pyproject.toml is {version}")
    newest = next(iter(entries(changelog)), None)
    if newest is None or newest.version != version:
        found.append(f"the newest version in CHANGELOG.md is {newest.version if newest else 'missing'}, not {version}")
    elif newest.date == "unreleased":
        found.append(f"version {version} has no date in CHANGELOG.md")
    for path in OWNER_FIELDS:
        value: Any = project
        for key in path:
            value = value.get(key, {}) if isinstance(value, dict) else {}
        if not value:
            found.append(f"{path[-1]} in [{'.'.join(path[:-1])}] of pyproject.toml is empty: the owner fills it in")
    return found


def main(arguments: list[str]) -> int:
    """Print what changed in the tagged version, or on the error stream why it cannot be published.

    Returns:
        0 if it can be published.
    """
    if len(arguments) != 1:
        print("usage: python -m devtools.release TAG", file=sys.stderr)
        return 2
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = problems(arguments[0], metadata(), changelog)
    for problem in found:
        print(f"Not published: {problem}", file=sys.stderr)
    if not found:
        print(entries(changelog)[0].text)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
