"""The client's upload, queue, follow, history and view, with nodes of ComfyUI only."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from devtools.client import Client, PromptError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / f"{tmp_path.name} ü.png"
    image = Image.new("RGB", (48, 32), "navy")
    image.putpixel((3, 5), (255, 128, 0))
    image.save(path)
    return path


def copy_of(name: str) -> dict[str, dict[str, Any]]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "copy"}},
    }


def test_a_picture_is_not_changed_by_a_prompt(client: Client, picture: Path) -> None:
    messages: list[str] = []
    entry = client.run(copy_of(client.upload(picture)), lambda kind, data: messages.append(kind))
    (shown,) = entry["outputs"]["2"]["images"]
    with Image.open(io.BytesIO(client.view(shown))) as made, Image.open(picture) as given:
        assert made.format == "PNG"
        assert made.tobytes() == given.tobytes()
    assert entry["status"]["status_str"] == "success"
    assert messages[0] == "execution_start" and messages.count("executing") == 3


def test_an_upload_replaces_the_file_of_that_name(client: Client, picture: Path) -> None:
    first = client.upload(picture)
    Image.new("RGB", (16, 16), "white").save(picture)
    assert client.upload(picture) == first
    (shown,) = client.run(copy_of(first))["outputs"]["2"]["images"]
    with Image.open(io.BytesIO(client.view(shown))) as made:
        assert made.size == (16, 16)


def test_the_second_of_two_equal_prompts_is_cached_and_equal(client: Client, picture: Path) -> None:
    prompt = copy_of(client.upload(picture))
    first = client.run(prompt)
    cached: list[str] = []

    def listener(kind: str, data: dict[str, Any]) -> None:
        if kind == "execution_cached":
            cached.extend(data["nodes"])

    second = client.run(prompt, listener)
    assert sorted(cached) == ["1", "2"]
    assert second["outputs"] == first["outputs"]


def test_proxies_of_the_environment_are_not_used(
    client: Client, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert client.run(copy_of(client.upload(picture)))["outputs"]["2"]["images"]


def test_a_faulty_prompt_is_refused_with_comfyuis_message(client: Client) -> None:
    prompt = copy_of("no such.png")
    with pytest.raises(PromptError) as refused:
        client.run(prompt)
    assert "ComfyUI refused the prompt: Prompt outputs failed validation" in str(refused.value)
    assert "node 1 (LoadImage)" in str(refused.value) and "no such.png" in str(refused.value)

    empty = {"1": {"class_type": "EmptyImage", "inputs": {"height": 8, "batch_size": 1, "color": 0}}}
    empty["2"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
    with pytest.raises(PromptError, match=r"node 1 \(EmptyImage\), input width: Required input is missing: width"):
        client.run(empty)


def test_an_unknown_node_is_refused(client: Client) -> None:
    with pytest.raises(PromptError, match="NoSuchNode"):
        client.run({"1": {"class_type": "NoSuchNode", "inputs": {}}})


def test_a_partly_faulty_prompt_is_refused_and_not_run(client: Client, picture: Path) -> None:
    prompt = copy_of(client.upload(picture))
    prompt["3"] = {"class_type": "PreviewImage", "inputs": {}}
    with pytest.raises(PromptError, match=r"node 3 \(PreviewImage\), input images: Required input is missing"):
        client.run(prompt)


def test_a_failing_node_is_reported_with_its_message(client: Client, picture: Path) -> None:
    picture.write_bytes(b"no picture at all")
    with pytest.raises(PromptError, match=r"node 1 \(LoadImage\) failed: UnidentifiedImageError: cannot identify"):
        client.run(copy_of(client.upload(picture)))
