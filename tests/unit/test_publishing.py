"""What is published: metadata, change log, pictures, and the files that users get."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import yaml
from pathspec import PathSpec
from PIL import Image

from devtools import pins, release

ROOT = pins.ROOT
PROJECT = release.metadata()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
LOCK = pins.LOCK.read_text(encoding="utf-8")
# Folders and files that ComfyUI, users or the running pack read.
NEEDED_FOLDERS = ("attention", "sampling", "nodes", "web", "locales", "workflows", "subgraphs")
NEEDED_FILES = ("__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "CHANGELOG.md")
FOR_DEVELOPERS = ("devtools", "lab", "tests", ".github", ".ci", "dev.py", ".gitignore", "CONTRIBUTING.md")


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Files of the pack that git lists, including new ones."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the checkout is no git repository")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def published(tracked: list[str]) -> set[str]:
    """The tracked files that `comfy node publish` would upload."""
    ignored = PathSpec.from_lines("gitignore", (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines())
    return {name for name in tracked if not ignored.match_file(name)}


def locked_version(package: str) -> str:
    found = re.match(rf"{package}==(\S+)", pins.locked(package, LOCK))
    assert found is not None
    return found[1]


# --- metadata


def test_the_version_is_the_newest_of_the_change_log() -> None:
    versions = [entry.version for entry in release.entries(CHANGELOG)]
    assert versions and versions[0] == PROJECT["project"]["version"]
    numbers = [tuple(int(part) for part in version.split(".")) for version in versions]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) == len(numbers)


def test_every_heading_of_the_change_log_is_read() -> None:
    headings = re.findall(r"^## (?!Unreleased$)", CHANGELOG, re.MULTILINE)
    assert len(headings) == len(release.entries(CHANGELOG))
    assert all(entry.text for entry in release.entries(CHANGELOG))


def test_requirements_are_the_dependencies() -> None:
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert listed == PROJECT["project"]["dependencies"]


def test_the_registry_gets_its_fields() -> None:
    comfy = PROJECT["tool"]["comfy"]
    assert comfy["DisplayName"] == "MagicFace"
    assert {"PublisherId", "Icon", "Banner"} <= comfy.keys() and "Repository" in PROJECT["project"]["urls"]
    assert "<" not in comfy["requires-comfyui"] and comfy["requires-comfyui"].startswith(">=")


# --- releases


def complete_metadata() -> dict[str, Any]:
    return {
        "project": {"version": "1.2.3", "urls": {"Repository": "filled in"}},
        "tool": {"comfy": {"PublisherId": "filled in", "Icon": "filled in", "Banner": "filled in"}},
    }


DATED = "# Changelog\n\n## 1.2.3 - 2030-12-31\n\n- A thing.\n\n## 1.2.2 - 2030-11-30\n\n- Another.\n"


def test_a_complete_release_has_no_problem() -> None:
    assert release.problems("v1.2.3", complete_metadata(), DATED) == []
    assert [entry.text for entry in release.entries(DATED)] == ["- A thing.", "- Another."]


@pytest.mark.parametrize("tag", ["v1.2.4", "1.2.3", "v1.2", "main"])
def test_a_tag_of_another_version_is_reported(tag: str) -> None:
    (problem,) = release.problems(tag, complete_metadata(), DATED)
    assert tag in problem and "1.2.3" in problem


@pytest.mark.parametrize("changelog", ["", DATED.replace("1.2.3", "1.3.0"), DATED.replace("2030-12-31", "unreleased")])
def test_a_change_log_without_the_dated_version_is_reported(changelog: str) -> None:
    (problem,) = release.problems("v1.2.3", complete_metadata(), changelog)
    assert "CHANGELOG.md" in problem


@pytest.mark.parametrize("path", release.OWNER_FIELDS, ids=".".join)
def test_an_empty_field_of_the_owner_is_reported(path: tuple[str, ...]) -> None:
    project = complete_metadata()
    table = project
    for key in path[:-1]:
        table = table[key]
    for empty in ("", None):
        table[path[-1]] = empty
        (problem,) = release.problems("v1.2.3", project, DATED)
        assert path[-1] in problem
    del table[path[-1]]
    assert len(release.problems("v1.2.3", project, DATED)) == 1


def test_a_field_of_the_owner_is_explained() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"`{path[-1]}`" in text for path in release.OWNER_FIELDS)


# --- pictures


def test_the_icon_is_square_and_small_enough() -> None:
    with Image.open(ROOT / "docs" / "brand" / "icon.png") as icon:
        assert icon.size == (400, 400) and icon.format == "PNG"


def test_the_banner_is_21_to_9() -> None:
    with Image.open(ROOT / "docs" / "brand" / "banner.png") as banner:
        assert banner.width * 9 == banner.height * 21 and banner.format == "PNG"


@pytest.mark.parametrize("name", ["icon", "banner"])
def test_a_picture_has_the_shape_of_its_source(name: str) -> None:
    source = (ROOT / "docs" / "brand" / f"{name}.svg").read_text(encoding="utf-8")
    found = re.search(r'viewBox="0 0 (\d+) (\d+)"', source)
    assert found is not None and "<image" not in source and "href" not in source
    with Image.open(ROOT / "docs" / "brand" / f"{name}.png") as picture:
        assert picture.width * int(found[2]) == picture.height * int(found[1])


# --- files


def modules_of(name: str) -> set[str]:
    """Files that a file of the pack imports by relative imports."""
    package = Path(name).parent
    found = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = package.joinpath(*[".."] * (node.level - 1), *(node.module or "").split("."))
            for target in (start, *(start / alias.name for alias in node.names)):
                place = (ROOT / target).resolve().relative_to(ROOT)
                found |= {
                    file.as_posix()
                    for file in (place / "__init__.py", place.with_suffix(".py"))
                    if (ROOT / file).is_file()
                }
    return found


def test_every_file_that_is_imported_is_published(published: set[str]) -> None:
    reached, waiting = set[str](), {"__init__.py"}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= modules_of(name) - reached
    assert len(reached) > 30 and reached <= published


def test_every_needed_file_is_published(tracked: list[str], published: set[str]) -> None:
    needed = {name for name in tracked if name.split("/")[0] in NEEDED_FOLDERS or name in NEEDED_FILES}
    assert set(NEEDED_FILES) <= needed and needed <= published


def test_files_for_developers_only_are_not_published(published: set[str]) -> None:
    assert not {name for name in published if name.split("/")[0] in FOR_DEVELOPERS}


def test_the_pictures_of_the_readme_are_published(published: set[str]) -> None:
    shown = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert shown and {name for name in shown if "://" not in name} <= published


# --- files that others read


def test_configuration_files_can_be_parsed(tracked: list[str]) -> None:
    readers = {".json": json.loads, ".toml": tomlkit.parse, ".yml": yaml.safe_load, ".yaml": yaml.safe_load}
    read = 0
    for name in tracked:
        reader = readers.get(Path(name).suffix)
        if reader is not None:
            assert reader((ROOT / name).read_text(encoding="utf-8")), name
            read += 1
    assert read > 20


def test_the_hooks_run_the_ruff_of_the_lock() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert len(hooks) == 2
    assert all(hook["additional_dependencies"] == [f"ruff=={locked_version('ruff')}"] for hook in hooks)


def test_the_workflows_use_the_locked_versions() -> None:
    folder = ROOT / ".github" / "workflows"
    publish = (folder / "publish.yml").read_text(encoding="utf-8")
    assert f"comfy-cli=={locked_version('comfy-cli')} ruff=={locked_version('ruff')}\n" in publish
    assert "python3 dev.py test" in (folder / "test.yml").read_text(encoding="utf-8")
    for file in folder.glob("*.yml"):
        jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
        steps = [step for job in jobs.values() for step in job["steps"] if "uses" in step]
        assert steps and all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in steps)
