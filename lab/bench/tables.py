"""The benchmark's tables, made of its figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

Summary = dict[str, dict[str, Any]]
STAGES = ("layout", "blend")
# What each ratio means.
MEANT = {
    "first_n3": "a first picture with 3 references and the nodes' own settings, 20 steps / unpatched",
    "next_n3": "the same with another seed after it / unpatched",
    "refresh_n3": "a first picture with the setting refresh at its recommended value / unpatched",
    "exact_n3": "a first picture with references at every noise level / unpatched",
    "floor_n3": "an evaluation with 3 references computed / the UNet rows that it needs, the worse stage",
    "cold_n1": "an evaluation with 1 reference computed / unpatched, the worse stage",
    "cold_n2": "with 2",
    "cold_n3": "with 3",
    "cold_n5": "with 5",
    "warm_n3": "with 3 cached references / unpatched",
    "authors_over_ours_n3": "the authors' way / ours, references computed",
    "authors_over_warm_n3": "the authors' way / ours, references cached",
    "memory_ours_over_authors": "memory beyond the unpatched sampler's: ours / the authors' way",
    "segmentation": "finding regions / an unpatched evaluation",
    "guidance": "semantic guidance / an unpatched evaluation",
    "batch_beside_references": "a batch of 4 without its one reference pass / unpatched",
    "max_error": "largest difference to the authors' way / the largest prediction",
    "equal_regions": "lowest share of pixels with the same concept, without near ties",
    "host_waits": "the host's waits for the GPU in an evaluation, beyond the unpatched sampler's",
}


def tables(figures: Summary) -> dict[str, list[str]]:
    """Lines of the tables of a summary: "ratios", "ways", "parts" and "exponents", as far as there are figures."""
    ratios_of = [f"| {name} | {value:.3g} | {MEANT[name]} |" for name, value in figures["ratios"].items()]
    whole = sum(figures["parts"].values())
    parts = [f"| {part} | {seconds:.4f} | {seconds / whole:.1%} |" for part, seconds in figures["parts"].items()]
    found = {
        "ratios": ["| ratio | value | what |", "|---|---|---|", *ratios_of],
        "ways": way_lines(figures["ways"]),
        "parts": ["| part | seconds | of the whole |", "|---|---|---|", *parts, f"| together | {whole:.4f} | |"],
        "exponents": [
            "| cost grows with | as its power |", "|---|---|",
            *(f"| {name} | {power:.2f} |" for name, power in figures["exponents"].items()),
        ],
    }  # fmt: skip
    return {name: lines for name, lines in found.items() if figures[name]}


def way_lines(ways: Summary) -> list[str]:
    """Lines of the table of the ways of sampling, see `report.summary`."""
    lines = [f"| references | {' | '.join(STAGES)} | seconds | most memory, MB |", "|---|---|---|---|---|"]
    for name, its in ways.items():
        cells = " | ".join("{:.2f} ({:.2f} to {:.2f})".format(*its[stage]) for stage in STAGES)
        peak = f"{its['peak_mb']:.0f}" if "peak_mb" in its else ""
        lines.append(f"| {name} | {cells} | {its['seconds']:.3f} | {peak} |")
    return lines


def ways_table(rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of the table.

    Args:
        rows: what is computed, the way, its seconds, the ratio to the first way's, and the largest difference to it.
    """
    lines = ["| what | way (the first is in use) | ms | ratio | largest difference |", "|---|---|---|---|---|"]
    for what, name, seconds, ratio, error in rows:
        lines.append(f"| {what} | {name} | {1000 * seconds:.2f} | {ratio:.2f} | {error:.0e} |")
    return lines


def sizes_table(sizes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of the table of `sizes.main`: seconds of each whole run and its ratio to the unpatched one."""
    names = list(next(iter(sizes.values()))["seconds"])
    lines = [
        f"| picture | {', s | '.join(names)}, s | memory beyond unpatched, MB | cached for each noise level, MB |"
        " the authors' way / ours |",
        "|---" * (len(names) + 4) + "|",
    ]
    for side, its in sizes.items():
        plain, *others = its["seconds"].values()
        cells = [f"{median(plain):.0f}"]
        for run in others:
            ratio = median(a / b for a, b in zip(run, plain, strict=True))
            cells.append(f"{median(run):.0f} ({ratio:.2f})")
        px = 8 * int(side)
        lines.append(
            f"| {px} x {px} | {' | '.join(cells)} | {its['memory_mb']:.0f} | {its['cached_mb']:.0f} |"
            f" {its['authors_over_ours']:.2f} |"
        )
    return lines
