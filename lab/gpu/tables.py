"""The parts' figures as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bench.tables import tables

Lines = list[str]


def lines_of(part: str, figures: Mapping[str, Any]) -> Lines:
    """Lines about a part, as far as its figures were measured."""
    if part == "tests":
        return []  # pytest has said what there is
    if not figures:
        return ["no figures"]
    if part in ("evaluations", "authors"):
        found = tables(figures)  # type: ignore[arg-type]
        others = [f"{name}: {value:.1f}" for name, value in figures.items() if isinstance(value, float)]
        return [*found.get("ratios", []), "", *found.get("ways", []), "", *others]
    if part == "attention":
        return _attention(figures["rows"])
    if part == "profile":
        return [line for way, its in figures.items() for line in _profile(way, its)]
    if part == "pictures":
        ratios = [f"| {name} | {value:.2f} | |" for name, value in figures["ratios"].items()]
        runs = [f"| {name} | | {min(its):.2f} |" for name, its in figures["seconds"].items()]
        return ["| of 20 steps | ratio | seconds |", "|---|---|---|", *ratios, *runs]
    return [f"{name}: {value}" for name, value in figures.items()]


def _attention(rows: list[Mapping[str, Any]]) -> Lines:
    lines = ["| what | way | ms | ratio | first call, ms | largest difference |", "|---|---|---|---|---|---|"]
    for row in rows:
        if "reason" in row:
            lines.append(f"| {row['what']} | {row['way']} | not available: {row['reason'][:60]} | | | |")
            continue
        first, usual = 1000 * row["first_s"], 1000 * row["s"]
        lines.append(
            f"| {row['what']} | {row['way']} | {usual:.3f} | {row['ratio']:.2f} | {first:.1f} | {row['error']:.0e} |"
        )
    return lines


def _profile(way: str, its: Mapping[str, Any]) -> Lines:
    kernels = [
        f"| {name[:80]} | {count} | {ms:.2f} | {ms / its['ms']:.0%} |" for name, (count, ms) in its["kernels"].items()
    ]
    waits = [f"waits: {name}: {count} in {ms:.2f} ms" for name, (count, ms) in its["waits"].items()]
    lines = [f"waits at {place}: {count}" for place, count in its.get("lines", {}).items()]
    return [f"{way}:", "", "| longest | calls | ms | part |", "|---|---|---|---|", *kernels, *waits, *lines, ""]
