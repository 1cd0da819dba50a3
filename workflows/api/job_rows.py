"""Read the rows of a job list, CSV or JSON lines, and note what is wrong with their columns.

The columns are the options of `job_options.py`, an id, and a workflow. Those of an option with a key are NAME.KEY
(`picture.hat`, `set.KSampler.steps`); in JSON they may also be an object: `"picture": {"hat": "my_hat.png"}`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job_options import OPTIONS
from read_workflow import InputError, content, near

MOST_FAULTS = 20  # that are told at once
Row = tuple[int, dict[str, Any]]  # the line, and the values by column


@dataclass
class Faults:
    """What is wrong with the lines of a list."""

    file: Path
    lines: dict[str, list[int]] = field(default_factory=dict)

    def add(self, line: int, text: object) -> None:
        """Note a fault of a line."""
        lines = self.lines.setdefault(str(text), [])
        if line not in lines[-1:]:
            lines.append(line)

    def raise_if_any(self) -> None:
        """Raise an InputError that names the lines."""
        told = [
            f"{self.file}, line {lines[0]}{more(len(lines) - 1)}: {text}"
            for text, lines in sorted(self.lines.items(), key=lambda fault: fault[1][0])
        ]
        if told[MOST_FAULTS:]:
            told[MOST_FAULTS:] = [f"and {len(told) - MOST_FAULTS} other faults"]
        if told:
            raise InputError("\n".join(told))


def more(count: int) -> str:
    """How many further lines have the same fault."""
    return f" and {count} more line{'s' if count > 1 else ''}" if count else ""


def read_rows(file: Path, faults: Faults) -> Iterator[Row]:
    """The lines of a list that have something in them."""
    data = content(file)
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise InputError(f"{file} is not in UTF-8: save it as CSV UTF-8, or as JSON lines") from None
    yield from (json_rows if text.lstrip().startswith(("{", "[")) else csv_rows)(text, faults)


def csv_rows(text: str, faults: Faults) -> Iterator[Row]:
    """Rows of CSV with commas, semicolons or tabs; empty cells are not given."""
    delimiter = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if not names:
                    names = [name.strip() for name in cells]
                    for name in names:
                        check_column(name, names.count(name), line, faults)
                elif any(cell.strip() for cell in cells[len(names) :]):
                    faults.add(line, f"{len(cells)} cells, but {len(names)} columns; is a text with commas not quoted?")
                else:
                    yield line, {name: cell for name, cell in zip(names, cells, strict=False) if cell.strip()}
            line = reader.line_num + 1
    except csv.Error as error:
        faults.add(line, f"{error}")


def json_rows(text: str, faults: Faults) -> Iterator[Row]:
    """Rows of JSON lines; null is not given."""
    for line, written in enumerate(text.split("\n"), 1):
        if not written.strip():
            continue
        try:
            value = json.loads(written)
        except (ValueError, RecursionError) as error:
            faults.add(line, f"is not JSON ({error}); a job is one object in one line")
            continue
        if not isinstance(value, dict):
            faults.add(line, f"is a {type(value).__name__}; a job is an object in one line: {{...}}")
            continue
        row: dict[str, Any] = {}
        for name, cell in value.items():
            inside = isinstance(cell, dict) and keyed(name)
            for column, one in (
                {f"{name}.{key}": part for key, part in cell.items()} if inside else {name: cell}
            ).items():
                check_column(column, 1 + (column in row), line, faults)
                row[column] = one
        yield line, {name: cell for name, cell in row.items() if cell is not None}


def keyed(name: str) -> bool:
    """Whether a name is that of an option with a key."""
    return any(option.name == name and option.key for option in OPTIONS)


def columns() -> list[str]:
    """All columns, as messages name them."""
    return ["id", "workflow", *(f"{one.name}.{one.key}" if one.key else one.name for one in OPTIONS)]


def check_column(column: str, times: int, line: int, faults: Faults) -> None:
    """Note a column that is unknown, lacks its key or stands there twice."""
    name, dot, key = column.partition(".")
    known = [known.partition(".")[0] for known in columns()]
    if name not in known:
        faults.add(line, f"unknown column {column!r}; there are {', '.join(columns())}{near(name, known)}")
    elif keyed(name) != bool(dot and key):
        (meant,) = (one for one in columns() if one.partition(".")[0] == name)
        faults.add(line, f"column {column!r} has to be {meant}")
    elif times > 1:
        faults.add(line, f"column {column!r} is there twice")
