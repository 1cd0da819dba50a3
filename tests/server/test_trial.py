"""`dev.py trial` on a real server with the embedded model: its figures are those of its pictures."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from devtools.client import Client
from devtools.demo import PICTURES
from devtools.pins import ROOT
from lab.trial import grid
from lab.trial.drawing import data_uri
from lab.trial.trial import Request, main

WORDS = ("hat", "scarf")
# Enough steps for regions; the rest small.
SMALL = (
    "--quick", "--size", "128", "--set", "KSampler.steps=3", "--set", "MagicFaceReference.size=128",
    "--set", "MagicFaceConceptMask.size=128",
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hat without a mask, whose word finds it, and a scarf that is cut out."""
    folder = tmp_path_factory.mktemp("concepts")
    with Image.open(PICTURES / "magicface_portrait_hat.png") as hat:
        hat.convert("RGB").save(folder / "hat.jpg", quality=95)
    with Image.open(PICTURES / "magicface_portrait_scarf.png") as scarf:
        with Image.open(PICTURES / "magicface_portrait_scarf_mask.png") as mask:
            scarf.putalpha(mask.convert("L"))
        scarf.save(folder / "scarf.png")
    (folder / "hat.txt").write_text("a person with a face, hair and a shirt, wearing a hat and a scarf")
    return folder


def trial(url: str, concepts: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    given = ("--server", url, "--concepts", str(concepts), "--output", str(output), *SMALL, *more)
    command = [sys.executable, str(ROOT / "dev.py"), "--inside", "trial", *given]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def made(server: Any, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial")
    done = trial(server.url, pictures, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
    return found


def mask(file: Path) -> NDArray[np.bool_]:
    with Image.open(file) as opened:
        grey = np.asarray(opened.convert("L"))
    assert set(np.unique(grey)) <= {0, 255} or file.parent.parent.name == "words"
    return grey > 127


def test_the_figures_are_those_of_the_pictures(made: Path) -> None:
    found = figures(made)
    place = {"MagicFaceMaskWeight.weight", "MagicFaceSchedule.switch", "MagicFaceSchedule.injection_blocks"}
    assert place < {one["input"] for one in found["settings"]}
    assert [one["variant"] for one in found["runs"]][:2] == [grid.DEFAULT, grid.WITHOUT]
    agreements: dict[str, list[float]] = {}
    for run in found["runs"]:
        assert run["error"] is None and run["seconds"] > 0
        name = f"{run['variant']}-{run['seed']}"
        words = [mask(made / "runs" / "words" / "made" / f"{name}{end}.png") for end in ("", "_2")]
        assert list(run["words_share"].values()) == [float(one.mean()) for one in words]
        if run["variant"] == grid.WITHOUT:
            assert run["region_share"] == run["agreement"] == {}
            continue
        regions = [mask(made / "runs" / "pictures" / "made" / f"{name}_{number}.png") for number in (2, 3)]
        assert not (regions[0] & regions[1]).any(), "a pixel belongs to one concept"
        for word, region, of_word in zip(WORDS, regions, words, strict=True):
            assert run["region_share"][word] == np.count_nonzero(region) / region.size
            either = np.count_nonzero(region | of_word)
            assert run["agreement"][word] == pytest.approx(np.count_nonzero(region & of_word) / either)
            agreements.setdefault(run["variant"], []).append(run["agreement"][word])
    assert any(sum(of) > 0 for of in agreements.values()), "some region is where the word is"
    for setting in found["settings"]:
        (default, *others) = setting["values"]
        assert default["value"] == setting["default"] and default["agreement"] == pytest.approx(
            np.mean(agreements[grid.DEFAULT])
        )
        for other in others:
            name = f"{setting['input'].rpartition('.')[2]}={other['value']}"
            assert other["agreement"] == pytest.approx(np.mean(agreements[name]))


def test_masks_are_those_of_words_and_of_transparency(made: Path) -> None:
    assert [one["mask"] for one in figures(made)["concepts"]] == ["from words", "given"]
    assert figures(made)["concepts"][1]["mask_agrees_with_words"] > 0
    with Image.open(PICTURES / "magicface_portrait_scarf_mask.png") as given:
        expected = np.asarray(given.convert("L")) > 127
    assert np.array_equal(mask(made / "runs" / "masks" / "scarf_mask.png"), expected)


class Page(HTMLParser):
    """The pictures of a page by the text that stands for each, and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: dict[str, str] = {}
        self.references: list[str] = re.findall(r"url\(([^)]*)\)|@import", text)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.references += [given[name] for name in ("src", "href", "srcset", "action") if name in given]
        if tag == "img":
            assert self.pictures.setdefault(given["alt"], given["src"]) == given["src"]


def test_the_page_holds_every_picture_and_refers_to_nothing(made: Path) -> None:
    page = Page((made / "trial.html").read_text(encoding="utf-8"))
    assert page.references and all(one.startswith("data:") for one in page.references)
    runs = figures(made)["runs"]
    for run in runs:
        with Image.open(made / "runs" / "pictures" / "made" / f"{run['variant']}-{run['seed']}.png") as saved:
            assert data_uri(saved) in page.pictures.values()
    assert len(set(page.pictures.values())) == len(WORDS) + 2 * len(runs), "references, pictures, and their regions"


def test_the_figures_name_no_places(made: Path, server: Any, pictures: Path) -> None:
    text = (made / "trial.json").read_text(encoding="utf-8")
    for place in (str(made), str(pictures), str(ROOT), server.url, str(Path.home())):
        assert place not in text


def test_a_second_trial_makes_what_is_missing_and_nothing_else(made: Path, client: Client, pictures: Path) -> None:
    before = {name: (made / name).read_bytes() for name in ("trial.html", "trial.json")}
    runs = set(client.get_json("/history?max_items=1000"))
    done = trial(client.url, pictures, made)
    assert done.returncode == 0, done.stderr
    assert set(client.get_json("/history?max_items=1000")) == runs
    assert {name: (made / name).read_bytes() for name in before} == before

    lost = made / "runs" / "pictures" / "made" / "weight=3.0-1_2.png"
    pixels = lost.read_bytes()
    lost.unlink()
    done = trial(client.url, pictures, made)
    assert done.returncode == 0, done.stderr
    assert len(set(client.get_json("/history?max_items=1000")) - runs) == 1
    assert np.array_equal(mask(lost), np.asarray(Image.open(io.BytesIO(pixels)).convert("L")) > 127)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"checkpoint": "nowhere.safetensors"}, "the server knows no checkpoint 'nowhere.safetensors'; it has none"),
        ({"server": "http://127.0.0.1:9"}, "--server http://127.0.0.1:9 does not answer"),
        ({"prompt": "a landscape"}, "lacks 'hat', 'scarf'; it needs the word of every concept"),
        ({"concepts": Path("empty")}, "--concepts empty has no pictures"),
        ({"changes": ("KSampler.strength=1",)}, "--set KSampler.strength=1: is not NODE.INPUT=VALUE"),
        ({"changes": ("KSampler.sampler_name=none",)}, "every job failed: "),
        ({"changes": ("MagicFaceConceptMask.blocks=none",)}, "every job failed: "),
    ],
)
def test_what_goes_wrong_is_one_line(
    given: dict[str, Any],
    said: str,
    client: Client,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    request = Request(
        checkpoint=None, server=client.url, concepts=pictures, prompt=None, size_px=128, changes=(), quick=True,
        output=Path("out"),
    )  # fmt: skip
    assert main(replace(request, **given)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dev.py trial: ") and said in line
