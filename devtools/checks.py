"""`dev.py test`: ruff, mypy and every part of the tests, each in a process of its own, and one summary."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from . import environment
from .incore import CHOICE, PACK
from .links import link
from .pins import CORES, ROOT

TESTS = ROOT / "tests"
# Typed as strictly as ComfyUI, which has no types, allows.
TYPED = ("attention", "sampling", "nodes", "devtools")
# The parts that run in process are run on both ends of the supported range.
ON_BOTH_CORES = ("comfy",)
FIRST = ("unit", "comfy")
NO_TESTS_COLLECTED = 5


@dataclass(frozen=True)
class Part:
    """Test files that run in one pytest process.

    Attributes:
        name: as the summary calls it.
        folder: below tests/.
        core: "newest" or "oldest", the ComfyUI that its tests find.
    """

    name: str
    folder: str
    core: str = "newest"


@dataclass(frozen=True)
class Result:
    """How many checks or tests of a part went which way."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0


def main(pytest_arguments: list[str]) -> int:
    """Run everything, or what the arguments for pytest choose.

    Args:
        pytest_arguments: passed on. With paths among them only the parts they lie in run, and without
            the static checks, as with any other choice of tests.

    Returns:
        0 if nothing failed.
    """
    paths = [str(Path(argument).absolute()) for argument in pytest_arguments if _is_test_path(argument)]
    others = [argument for argument in pytest_arguments if not _is_test_path(argument)]
    results = [] if pytest_arguments else static_checks()
    chosen = [(part, _paths_in(part, paths)) for part in parts()]
    tested = [_test(part, targets, others) for part, targets in chosen if targets]
    if pytest_arguments and any(result.passed + result.failed + result.skipped for result in tested):
        # A choice by name (-k) may well leave some parts empty; all of them empty is a mistake.
        results += [result for result in tested if result.passed + result.failed + result.skipped]
    else:
        results += [_empty_is_failure(result) for result in tested]
    return _summary(results)


def parts() -> list[Part]:
    """The parts there are: the folders of tests/, quick ones first."""
    folders = sorted(folder.name for folder in TESTS.iterdir() if any(folder.rglob("test_*.py")))
    folders.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    found = []
    for folder in folders:
        found.append(Part(folder, folder))
        if folder in ON_BOTH_CORES:
            version = CORES["oldest"].version
            found.append(Part(f"{folder} on ComfyUI {version}", folder, "oldest"))
    return found


def static_checks() -> list[Result]:
    """ruff and mypy, each counted as one test."""
    python = sys.executable
    results = [
        _check("ruff check", [python, "-m", "ruff", "check", "."], ROOT),
        _check("ruff format", [python, "-m", "ruff", "format", "--check", "."], ROOT),
    ]
    with tempfile.TemporaryDirectory(prefix="magicface-types-") as folder:
        # The checkout is a package, but its folder's name need be no Python name: mypy sees it as `magicface`.
        link(ROOT, Path(folder) / PACK)
        typed = [name for name in TYPED if (ROOT / name / "__init__.py").is_file()]
        command = [python, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        command += ["--cache-dir", str(ROOT / ".mypy_cache")]
        for name in typed:
            command += ["-p", f"{PACK}.{name}"]
        results.append(_check("mypy", command, Path(folder)))
        (Path(folder) / PACK).unlink()
    return results


def _check(name: str, command: list[str], folder: Path) -> Result:
    print(f"\n=== {name}", flush=True)
    code = subprocess.run(command, cwd=folder, check=False).returncode
    return Result(name, passed=int(code == 0), failed=int(code != 0))


def _is_test_path(argument: str) -> bool:
    path = Path(argument.split("::")[0])
    return not argument.startswith("-") and path.exists() and path.resolve().is_relative_to(TESTS)


def _paths_in(part: Part, paths: list[str]) -> list[str]:
    """What of these paths belongs to a part; its whole folder where none are given."""
    folder = TESTS / part.folder
    if not paths:
        return [str(folder)]
    return [p for p in paths if folder in (found := Path(p.split("::")[0]).resolve(), *found.parents)]


def _test(part: Part, targets: list[str], others: list[str]) -> Result:
    print(f"\n=== tests: {part.name}", flush=True)
    variables = {**os.environ, CHOICE: str(environment.comfyui(part.core))}
    with tempfile.TemporaryDirectory(prefix="magicface-tests-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *targets, *others]
        code = subprocess.run(command, env=variables, cwd=ROOT, check=False).returncode
        result = _read(part.name, report)
    broken = code not in (0, 1, NO_TESTS_COLLECTED) or (code == 1 and not result.failed)
    return Result(part.name, result.passed, result.failed + 1, result.skipped) if broken else result


def _read(name: str, report: Path) -> Result:
    """The counts of a JUnit report; nothing where pytest died before it wrote one."""
    if not report.is_file():
        return Result(name)
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    total, failed, errors, skipped = (
        sum(int(suite.get(count, 0)) for suite in suites) for count in ("tests", "failures", "errors", "skipped")
    )
    return Result(name, total - failed - errors - skipped, failed + errors, skipped)


def _empty_is_failure(result: Result) -> Result:
    nothing = result.passed + result.failed + result.skipped == 0
    return Result(f"{result.name} (no tests found)", failed=1) if nothing else result


def _summary(results: list[Result]) -> int:
    print("\n=== summary")
    for result in results:
        print(f"  {result.name:28} {result.passed} passed, {result.failed} failed, {result.skipped} skipped")
    passed = sum(result.passed for result in results)
    failed = sum(result.failed for result in results)
    skipped = sum(result.skipped for result in results)
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not results else 0
