"""`dev.py test`: static checks and every part of the tests, each in a process of its own, and one summary."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import environment
from .incore import CHOICE, PACK
from .links import link
from .pins import CORES, ROOT

TESTS = ROOT / "tests"
# The packages that mypy checks.
TYPED = (f"{PACK}.attention", f"{PACK}.sampling", f"{PACK}.nodes", "devtools", "lab")
# These tests run ComfyUI in their own process; they run with the oldest and with the newest supported version.
ON_BOTH_CORES = ("comfy",)
FIRST = ("unit", "comfy")
NO_TESTS_COLLECTED = 5
# Tests that compare different paths of computation run once more with the instructions of an older CPU, and with some
# noise in the last digits. A test whose outcome depends on rounding shows here first, not on someone else's machine.
_OTHER_CPU = (("ATEN_CPU_CAPABILITY", "default"), ("MAGICFACE_TEST_NOISE", "2e-7"))
ROUNDING = ("comfy", ("-m", "rounding"), _OTHER_CPU)
# Parts that run at the same time. Each keeps about one core busy.
AT_ONCE = 2


@dataclass(frozen=True)
class Part:
    """Test files that run in one pytest process.

    Attributes:
        name: in the summary.
        folder: in tests/.
        core: "newest" or "oldest", the ComfyUI that its tests use.
        arguments: for pytest.
        variables: of its environment.
    """

    name: str
    folder: str
    core: str = "newest"
    arguments: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


# Test files whose passed tests are counted in a line of their own, and what they count.
COUNTED = {
    "test_neighbours": "tests of neighbours",
    "test_every_sampler": "samplers and schedulers",
    "test_devices": "precisions, memory modes and devices",
    "test_faults": "faults survived",
    "test_plain_program": "runs equal to the plain program's",
}


@dataclass(frozen=True)
class Result:
    """How many tests of a part passed, failed or were skipped, and how many passed of those in COUNTED."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    counted: dict[str, int] = field(default_factory=dict)


def main(pytest_arguments: list[str]) -> int:
    """Run everything, or the tests that the arguments for pytest choose.

    Args:
        pytest_arguments: passed on. With any of them the static checks do not run; with paths among them only the parts
            run that contain these paths.

    Returns:
        0 if nothing failed, or 1.
    """
    paths = [str(Path(argument).absolute()) for argument in pytest_arguments if _is_test_path(argument)]
    others = [argument for argument in pytest_arguments if not _is_test_path(argument)]
    results = [] if pytest_arguments else static_checks()
    chosen = [(part, targets) for part in parts() if (targets := _paths_in(part, paths))]
    # Set up first: what the set-up asks of Python's sysconfig must not be asked in several threads at once.
    cores = {core: environment.comfyui(core) for core in sorted({part.core for part, _ in chosen})}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [
            pool.submit(_test, part, cores[part.core], [*targets, *others], at_once=not number)
            for number, (part, targets) in enumerate(chosen)
        ]
        tested = [run.result() for run in runs]
    if pytest_arguments and any(result.passed + result.failed + result.skipped for result in tested):
        # A choice by name (-k) may leave some parts empty. If all are empty, it was a mistake.
        results += [result for result in tested if result.passed + result.failed + result.skipped]
    else:
        results += [_empty_is_failure(result) for result in tested]
    return _summary(results)


def parts() -> list[Part]:
    """All parts: the folders of tests/, fast ones first."""
    folders = sorted(folder.name for folder in TESTS.iterdir() if any(folder.rglob("test_*.py")))
    folders.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    found = []
    for folder in folders:
        found.append(Part(folder, folder))
        if folder in ON_BOTH_CORES:
            version = CORES["oldest"].version
            found.append(Part(f"{folder} on ComfyUI {version}", folder, "oldest", ("-m", "not lab")))
        if folder == ROUNDING[0]:
            found.append(Part(f"{folder}, another rounding", folder, "newest", *ROUNDING[1:]))
    return found


def static_checks() -> list[Result]:
    """ruff, the registry's validation, mypy and import-linter, each counted as one test."""
    python, config = sys.executable, str(ROOT / "pyproject.toml")
    results = [
        _check("ruff check", [python, "-m", "ruff", "check", "."], ROOT),
        _check("ruff format", [python, "-m", "ruff", "format", "--check", "."], ROOT),
        _check("comfy node validate", [python, "-m", "devtools.registry"], ROOT),
    ]
    # The checkout is a package, but its folder may have any name, even one that Python cannot import. Both tools know
    # packages by the names of their folders only. So they get a link with the right name, `magicface`.
    with tempfile.TemporaryDirectory(prefix="magicface-types-") as folder:
        link(ROOT, Path(folder) / PACK)
        mypy = [python, "-m", "mypy", "--config-file", config, "--cache-dir", str(ROOT / ".mypy_cache")]
        results.append(_check("mypy", [*mypy, *(word for name in TYPED for word in ("-p", name))], Path(folder)))
        # Scripts that import each other as if from one folder, as whoever copies that folder runs them.
        results.append(_check("mypy, scripts", [*mypy, "--explicit-package-bases", "."], ROOT / "workflows" / "api"))
        imports = "from importlinter.cli import lint_imports_command; lint_imports_command()"
        results.append(_check("import-linter", [python, "-c", imports, config, "--no-cache"], Path(folder)))
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
    """Those of the paths that belong to a part; the part's whole folder if no paths are given."""
    folder = TESTS / part.folder
    if not paths:
        return [str(folder)]
    return [p for p in paths if folder in (found := Path(p.split("::")[0]).resolve(), *found.parents)]


def _test(part: Part, core: Path, arguments: list[str], at_once: bool) -> Result:
    """Run a part. What it prints comes either at once or in one piece when it ends, so that parts do not mix."""
    print(f"\n=== tests: {part.name}{'' if at_once else ' (its output follows)'}", flush=True)
    variables = {**os.environ, CHOICE: str(core), "PYTHONIOENCODING": "utf-8"}
    variables |= dict(part.variables)
    with tempfile.TemporaryDirectory(prefix="magicface-tests-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *part.arguments, *arguments]
        ended = subprocess.run(
            command,
            env=variables,
            cwd=ROOT,
            check=False,
            stdout=None if at_once else subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        result = _read(part.name, report)
    if not at_once:
        print(f"\n=== tests: {part.name}\n{ended.stdout}", end="", flush=True)
    broken = ended.returncode not in (0, 1, NO_TESTS_COLLECTED) or (ended.returncode == 1 and not result.failed)
    return replace(result, failed=result.failed + 1) if broken else result


def _read(name: str, report: Path) -> Result:
    """The counts in a JUnit report; none if pytest ended before it wrote one."""
    if not report.is_file():
        return Result(name)
    root = ET.parse(report).getroot()
    suites = list(root.iter("testsuite"))
    total, failed, errors, skipped = (
        sum(int(suite.get(count, 0)) for suite in suites) for count in ("tests", "failures", "errors", "skipped")
    )
    passed = [case.get("classname", "").split(".") for case in root.iter("testcase") if len(case) == 0]
    counted = {text: sum(file in names for names in passed) for file, text in COUNTED.items()}
    return Result(
        name, total - failed - errors - skipped, failed + errors, skipped, {k: n for k, n in counted.items() if n}
    )


def _empty_is_failure(result: Result) -> Result:
    nothing = result.passed + result.failed + result.skipped == 0
    return Result(f"{result.name} (no tests found)", failed=1) if nothing else result


def _summary(results: list[Result]) -> int:
    print("\n=== summary")
    for result in results:
        print(f"  {result.name:28} {result.passed} passed, {result.failed} failed, {result.skipped} skipped")
        for text, count in result.counted.items():
            print(f"    {count} {text}")
    passed = sum(result.passed for result in results)
    failed = sum(result.failed for result in results)
    skipped = sum(result.skipped for result in results)
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not results else 0
