"""`dev.py demo` as a person runs it, with small workflows made of ComfyUI's own nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Dev = Callable[..., "subprocess.Popen[str]"]


def workflow(folder: Path, picture: str = "given.png", **changed: Any) -> Path:
    """A workflow that loads a picture, halves its size and saves it."""
    Image.new("RGB", (64, 48), "teal").save(folder / "given.png")
    scale = {"upscale_method": "nearest-exact", "width": 32, "height": 24, "crop": "disabled", **changed}
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": picture}},
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], **scale}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "demo"}},
    }
    file = folder / "workflow.json"
    file.write_text(json.dumps(prompt))
    return file


def test_the_demo_saves_the_picture_and_prints_its_path(dev: Dev, tmp_path: Path) -> None:
    process = dev("demo", "--workflow", str(workflow(tmp_path)), "--output", "some/where")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    made = tmp_path / "some" / "where" / "picture.png"
    assert str(made) in output
    assert "Load Image" in output and "Save Image" in output
    with Image.open(made) as image:
        assert (image.format, image.size, image.getpixel((5, 5))) == ("PNG", (32, 24), (0, 128, 128))


def test_a_refused_prompt_ends_the_demo_with_comfyuis_message(dev: Dev, tmp_path: Path) -> None:
    process = dev("demo", "--workflow", str(workflow(tmp_path, upscale_method="magic")))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "node 2 (ImageScale), input upscale_method: Value not in list" in output
    assert not (tmp_path / "demo_output").exists()


def test_a_missing_picture_ends_the_demo(dev: Dev, tmp_path: Path) -> None:
    process = dev("demo", "--workflow", str(workflow(tmp_path, picture="other.png")))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "the workflow reads other.png, which is in none of" in output


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="searches processes in /proc")
def test_ctrl_c_while_starting_leaves_no_server_and_no_files(dev: Dev, tmp_path: Path) -> None:
    process = dev("demo", "--workflow", str(workflow(tmp_path)), TMPDIR=str(tmp_path))
    end = time.monotonic() + 60
    while not servers(tmp_path) and time.monotonic() < end:
        time.sleep(0.1)
    assert servers(tmp_path)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert not servers(tmp_path)
    assert not list(tmp_path.glob("magicface-demo-*"))


def servers(folder: Path) -> list[str]:
    """Processes whose command names a base folder in this folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().decode()
        except OSError:
            continue
        if f"--base-directory\0{folder}/" in command:
            found.append(command)
    return found
