"""The commands of dev.py without a server: links, own installs, arguments, model, progress, counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dev
from devtools import checks, install, model, pins
from devtools.links import link
from devtools.progress import Progress

# --- links and installs


def test_a_link_is_made_reused_and_redirected(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    place = tmp_path / "place"
    for name in ("one", "one", "two"):
        link(tmp_path / name, place)
        assert (place / "file").read_text() == name
    assert (tmp_path / "one" / "file").is_file(), "the old target does not change"
    with pytest.raises(FileExistsError):
        link(tmp_path / "one", tmp_path / "two")


def own_install(folder: Path, python: str | None) -> Path:
    (folder / "ComfyUI").mkdir(parents=True)
    (folder / "ComfyUI" / "main.py").write_text("")
    (folder / "ComfyUI" / "comfyui_version.py").write_text('__version__ = "0.20.0"\n')
    if python:
        (folder / python).parent.mkdir(parents=True)
        (folder / python).write_text("")
    return folder


@pytest.mark.parametrize("python", ["ComfyUI/venv/bin/python", ".venv/bin/python", "python_embeded/python.exe"])
@pytest.mark.parametrize("given", [".", "ComfyUI"])
def test_the_python_of_an_own_install_is_found(tmp_path: Path, python: str, given: str) -> None:
    folder = own_install(tmp_path / "own", python)
    found = install.own(folder / given, None)
    assert found == install.Install(folder / "ComfyUI", folder / python, own=True)


def test_an_own_install_without_python_is_refused_with_advice(tmp_path: Path) -> None:
    folder = own_install(tmp_path / "own", None)
    with pytest.raises(install.InstallError, match="Name it with COMFYUI_PYTHON"):
        install.own(folder, None)
    with pytest.raises(install.InstallError, match="no such file"):
        install.own(folder, str(tmp_path / "nowhere"))
    assert install.own(folder, sys.executable).python == Path(sys.executable)


def test_a_folder_without_comfyui_is_refused(tmp_path: Path) -> None:
    with pytest.raises(install.InstallError, match=r"COMFYUI_PATH is .* no main\.py"):
        install.own(tmp_path, sys.executable)


def test_an_old_own_install_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = own_install(tmp_path / "own", "venv/bin/python")
    install.own(folder, None)
    assert capsys.readouterr().err == ""
    (folder / "ComfyUI" / "comfyui_version.py").write_text('__version__ = "0.3.64"\n')
    install.own(folder, None)
    assert "is 0.3.64; MagicFace needs 0.16.3 or later" in capsys.readouterr().err


# --- arguments, model, progress, counting


def test_unknown_arguments_of_test_go_to_pytest_in_order() -> None:
    given = ["-k", "region", "-x", "tests/unit", "--maxfail=2"]
    assert dev.parse(["test", *given]).rest == given


@pytest.mark.parametrize("bad", [[], ["dance"], ["demo", "--loud"], ["parity"], ["serve", "--port", "x"]])
def test_unknown_arguments_of_other_commands_are_refused(bad: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dev.parse(bad)
    assert ended.value.code == 2


def test_the_model_is_replaced_and_its_links_do_not_change() -> None:
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
        "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "steps": 30, "seed": 5}},
    }
    changed = model.with_model(prompt)
    assert changed["1"] == model.LOADER
    assert changed["2"]["inputs"] == {"model": ["1", 0], "seed": 5, **model.INPUTS["KSampler"]}
    assert prompt["1"]["inputs"] == {"ckpt_name": "x"} and prompt["2"]["inputs"]["steps"] == 30
    other = {"1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64}}}
    assert model.with_model(other) == other


def test_progress_off_a_terminal_shows_each_node_and_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = {
        "1": {"class_type": "A", "inputs": {}, "_meta": {"title": "Mine"}},
        "2": {"class_type": "KSampler", "inputs": {}},
        "3": {"class_type": "B", "inputs": {}},
    }
    progress = Progress(prompt, {"KSampler": "The Sampler"})
    progress("execution_cached", {"nodes": ["3"]})
    progress("executing", {"node": "1"})
    progress("executing", {"node": "2"})
    for step in range(1, 9):
        progress("progress", {"node": "2", "value": step, "max": 8})
    progress("executing", {"node": None})
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["Mine 2 to go", "The Sampler 1 to go"]
    bars = dict.fromkeys(line.rpartition(" ")[2] for line in lines[2:] if line)  # the end of a bar is drawn twice
    assert list(bars) == ["2/8", "4/8", "6/8", "8/8"]


def test_counts_are_read_from_a_report(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite tests="9" failures="2" errors="1" skipped="3"/></testsuites>')
    assert checks._read("x", report) == checks.Result("x", passed=3, failed=3, skipped=3)
    assert checks._read("x", tmp_path / "absent.xml") == checks.Result("x")


@pytest.mark.parametrize("version", [(3, 9), (3, 6)])
def test_an_old_python_is_refused_with_the_versions(version: tuple[int, int]) -> None:
    source = (pins.ROOT / "dev.py").read_text(encoding="utf-8")
    program = f"import sys; sys.version_info = {(*version, 0)}; exec(sys.stdin.read())"
    ended = subprocess.run([sys.executable, "-c", program], input=source, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert f"dev.py needs Python 3.10 or later; this is Python {version[0]}.{version[1]}" in ended.stderr


@pytest.mark.parametrize("command", dev.COMMANDS)
def test_a_command_starts_on_a_bare_python(command: str) -> None:
    """No package is needed before the environment exists: -S leaves site-packages out."""
    program = [sys.executable, "-S", str(pins.ROOT / "dev.py"), command, "--help"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"usage: dev.py {command}")
