"""The figures as tables, as JSON and as a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .measure import AGAINST, MEMORY, STAGES, UNPATCHED, UNPATCHED_BATCH, Measured, exponent, ratios

MB = 2**20
MEANT = {
    "cold_n1": "an evaluation with 1 reference computed / unpatched, the worse stage",
    "cold_n2": "with 2",
    "cold_n3": "with 3",
    "cold_n5": "with 5",
    "warm_n3": "with 3 kept references / unpatched",
    "authors_over_ours_n3": "the authors' way / ours, references computed",
    "authors_over_warm_n3": "the authors' way / ours, references kept",
    "memory_ours_over_authors": "memory beyond the unpatched sampler's: ours / the authors' way",
    "segmentation": "finding regions / an unpatched evaluation",
    "guidance": "semantic guidance / an unpatched evaluation",
    "batch_beside_references": "a batch of 4 but for its one reference pass / unpatched",
    "max_error": "largest difference to the authors' way / the largest prediction",
    "equal_regions": "least share of pixels with the same concept, near ties left out",
    "host_waits": "waits for the device in an evaluation beyond the unpatched sampler's",
}
_PANEL, _MARGIN, _DOT = (400, 300), 58, 4
_LEAST = 1e-6
_INK, _GREY, _BLUE = (30, 30, 30), (190, 190, 190), (40, 90, 200)


def as_json(found: Measured) -> dict[str, Any]:
    """All figures, the ratios first."""
    return {
        "ratios": ratios(found),
        "seconds": {name: times.by_stage for name, times in found.times.items()},
        "peak_bytes": found.peak_bytes,
        "parts_seconds": found.parts,
        "curves": {
            name: {"exponent": exponent(points), "points": [list(point) for point in points]}
            for name, points in found.curves.items()
        },
    }


def in_markdown(found: Measured) -> list[str]:
    """Tables of ratios, ways to sample, parts and exponents."""
    lines = ["| ratio | value | what |", "|---|---|---|"]
    lines += [f"| {name} | {short(value)} | {MEANT[name]} |" for name, value in ratios(found).items()]
    lines += ["", f"| references | {' | '.join(STAGES)} | seconds | most memory, MB |", "|---|---|---|---|---|"]
    for name, times in found.times.items():
        plain = found.times[UNPATCHED_BATCH if "batch" in name else UNPATCHED]
        cells = [spread(times.over(plain, stage)) for stage in STAGES]
        seconds = median(second for stage in STAGES for second in times.by_stage[stage])
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.3f} | {found.peak_bytes[name] / MB:.0f} |")
    parts = {part: median(seconds) for part, seconds in found.parts.items()}
    whole = sum(parts.values())
    lines += ["", "| part | seconds | of the whole |", "|---|---|---|"]
    lines += [f"| {part} | {seconds:.4f} | {seconds / whole:.1%} |" for part, seconds in parts.items()]
    lines += [f"| together | {whole:.4f} | |", "", "| cost grows with | as its power |", "|---|---|"]
    lines += [f"| {name} | {exponent(points):.2f} |" for name, points in found.curves.items()]
    return lines


def spread(values: Sequence[float]) -> str:
    """The median, and the least and the most of the rounds."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def short(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.3g}"


def plot(found: Measured, file: Path) -> None:
    """The curves, both axes logarithmic, with the lines of the exponents."""
    width, height = _PANEL
    picture = Image.new("RGB", (2 * width, -(-len(found.curves) // 2) * height), "white")
    for number, (name, points) in enumerate(found.curves.items()):
        panel = Image.new("RGB", _PANEL, "white")
        _draw(ImageDraw.Draw(panel), name, points)
        picture.paste(panel, (number % 2 * width, number // 2 * height))
    picture.save(file)


def _draw(draw: ImageDraw.ImageDraw, name: str, points: Sequence[tuple[float, float]]) -> None:
    """One panel."""
    font = ImageFont.load_default(13)
    points = [(x, max(y, _LEAST)) for x, y in points]  # a cost may be lost in the noise
    (left, right), (low, high) = (_span([point[axis] for point in points]) for axis in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / left) / math.log(right / left)
        up = math.log(y / low) / math.log(high / low)
        return _MARGIN + across * (_PANEL[0] - 1.5 * _MARGIN), _PANEL[1] - _MARGIN - up * (_PANEL[1] - 1.8 * _MARGIN)

    draw.line([at(left, high), at(left, low), at(right, low)], fill=_INK)
    for x, y in points:
        draw.line([at(x, low), at(x, y), at(left, y)], fill=_GREY)
        draw.text((at(x, low)[0], at(x, low)[1] + 4), f"{x:g}", _INK, font, "ma")
        draw.text((at(left, y)[0] - 4, at(left, y)[1]), f"{y:.2f}", _INK, font, "rm")
    slope = exponent(points)
    middle = [math.exp(sum(math.log(point[axis]) for point in points) / len(points)) for axis in (0, 1)]
    ends = [(x, middle[1] * (x / middle[0]) ** slope) for x in (points[0][0], points[-1][0])]
    draw.line([at(*end) for end in ends], fill=_BLUE, width=2)
    for point in points:
        x, y = at(*point)
        draw.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=_INK)
    cost = {"batch": "seconds", MEMORY: "MB beyond unpatched", AGAINST: "ratio"}.get(name, "seconds beyond unpatched")
    draw.text((_PANEL[0] / 2, 12), f"{cost} by {name}: power {slope:.2f}", _INK, font, "ma")


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / 1.15, max(values) * 1.15
