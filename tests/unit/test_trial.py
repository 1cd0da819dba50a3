"""The trial of settings: its references, its grid, its prompts and its measures, without a server."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.trial import concepts, drawing, grid, host, jobs, measures, page, prompts, report, trial, verdicts
from lab.trial.errors import TrialError

# --- references


def picture(file: Path, transparent: bool = False) -> Path:
    made = Image.new("RGBA" if transparent else "RGB", (8, 6), "teal")
    if transparent:
        made.paste((255, 0, 0, 0), (0, 0, 4, 6))
    made.save(file)
    return file


def test_words_masks_and_captions_come_from_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    plain, cut_out, masked = (folder / f"{name}.png" for name in ("hat", "red_scarf", "face"))
    picture(plain)
    picture(cut_out, transparent=True)
    mask = picture(folder / "face_mask.png")
    picture(masked)
    (folder / "hat.txt").write_text("a boy\nwearing a Hat", encoding="utf-8")
    face, hat, scarf = concepts.read_concepts(folder, tmp_path / "masks")
    assert face == concepts.Concept("face", "a picture of a face", masked, mask)
    assert hat == concepts.Concept("hat", "a boy wearing a Hat", plain, None)
    assert (scarf.word, scarf.picture) == ("red scarf", cut_out)
    assert scarf.mask is not None
    expected = np.repeat([[False] * 4 + [True] * 4], 6, axis=0)
    assert np.array_equal(measures.read_mask(scarf.mask), expected), "white where it is opaque"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "has no pictures"),
        (("notes.txt",), "has no pictures"),
        (tuple(f"{letter}.png" for letter in "abcdefghijk"), "has 11 pictures"),
        (("IMG_1234.png",), "IMG_1234.png has no word: name it by what it shows"),
        (("12.png",), "12.png has no word"),
        (("red_hat.png", "Red hat.png"), "Red hat.png and red_hat.png have the same word"),
        (("hat.png", "scarf_mask.png"), "scarf_mask.png is the mask of a picture 'scarf' that is not there"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    for name in names:
        picture(tmp_path / name) if name.endswith("png") else (tmp_path / name).write_text("")
    with pytest.raises(TrialError, match=said):
        concepts.read_concepts(tmp_path, tmp_path / "masks")


def test_captions_and_prompts_need_the_word(tmp_path: Path) -> None:
    picture(tmp_path / "hat.png")
    (tmp_path / "hat.txt").write_text("hats")
    with pytest.raises(TrialError, match=r"the caption in hat\.txt lacks the word 'hat'"):
        concepts.read_concepts(tmp_path, tmp_path)
    with pytest.raises(TrialError, match="lacks 'hat', 'red scarf'"):
        concepts.check_prompt("a face and red scarfs", ["hat", "face", "red scarf"])
    (tmp_path / "hat.txt").unlink()
    (tmp_path / "hat.png").write_text("no picture")
    with pytest.raises(TrialError, match=r"hat\.png cannot be read"):
        concepts.read_concepts(tmp_path, tmp_path)


@pytest.mark.parametrize("words", [["hat"], ["hat", "scarf"], ["hat", "red scarf", "face"]])
def test_the_usual_prompt_has_every_word(words: list[str]) -> None:
    concepts.check_prompt(concepts.usual_prompt(words), words)


def test_the_shipped_references_are_there() -> None:
    given, text = concepts.shipped()
    concepts.check_prompt(text, [one.word for one in given])
    assert all(one.picture.is_file() and one.mask and one.mask.is_file() for one in given)


# --- grid

SCHEDULE = {
    "MagicFaceMaskWeight.weight": 1.5,
    "MagicFaceReference.size": 0,
    "MagicFaceSchedule.switch": 0.43,
    "MagicFaceSchedule.injection_blocks": "auto",
    "MagicFaceSchedule.segmentation_blocks": "auto",
    "MagicFaceSchedule.token_suppression": 0.0,
    "MagicFaceSchedule.semantic_guidance": True,
    "MagicFaceSchedule.refresh": 0.17,
}


@pytest.mark.parametrize("quick", [False, True])
def test_one_setting_is_changed_at_a_time(quick: bool) -> None:
    made = list(grid.variants(grid.settings(1024), SCHEDULE, quick))
    assert [one.id for one in made[:2]] == [grid.DEFAULT, grid.WITHOUT]
    assert not made[0].options and not made[1].options
    changed = [one.options for one in made[2:]]
    assert all(
        len(options) == 1 and SCHEDULE[place] != value for options in changed for place, value in options.items()
    )
    assert len({one.id for one in made}) == len(made)
    places = {place for options in changed for place in options}
    assert places <= SCHEDULE.keys() if quick else places == SCHEDULE.keys()
    assert len(made) <= 8 if quick else len(made) > 16


def test_a_changed_default_is_not_made_twice() -> None:
    usual = [one.id for one in grid.variants(grid.settings(512), SCHEDULE, False)]
    other = [
        one.id for one in grid.variants(grid.settings(512), {**SCHEDULE, "MagicFaceMaskWeight.weight": 2.0}, False)
    ]
    assert [name for name in usual if name not in other] == ["weight=2.0"]


@pytest.mark.parametrize("side", [64, 128, 256, 512, 1024])
def test_smaller_references_are_on_the_grid_of_64_pixels(side: int) -> None:
    (size,) = (one for one in grid.settings(side) if one.name == "size")
    assert all(64 <= value <= side and value % 64 == 0 for value in size.values)


# --- prompts and jobs


def test_defaults_are_those_that_the_server_describes() -> None:
    described = {
        "input": {
            "required": {
                "old": [["a", "b"]],
                "new": ["COMBO", {"options": ["c", "d"], "default": "d"}],
                "first": ["COMBO", {"options": ["e", "f"]}],
                "model": ["MODEL"],
                "off": ["BOOLEAN", {"default": False}],
            },
            "optional": {"weight": ["FLOAT", {"default": 0.0}], "mask": ["MASK", {"tooltip": "x"}]},
        }
    }
    assert prompts.defaults_of(described) == {"old": "a", "new": "d", "first": "e", "off": False, "weight": 0.0}


def test_inputs_are_changed_where_a_node_has_them() -> None:
    made = [{"1": {"class_type": "KSampler", "inputs": {"steps": 30, "sampler_name": "euler"}}}, {}]
    prompts.change(made, "KSampler.steps=4")
    prompts.change(made, "KSampler.sampler_name=heun")
    assert made[0]["1"]["inputs"] == {"steps": 4, "sampler_name": "heun"}
    for wrong in ("KSampler.step=4", "Sampler.steps=4", "KSampler.steps", "steps=4"):
        with pytest.raises(TrialError, match="--set"):
            prompts.change(made, wrong)


def test_a_job_is_known_by_the_name_of_its_pictures() -> None:
    row = prompts.job("weight=2.0-1", seed=1, set={"A.on": False, "A.blocks": "auto"})
    assert row["set"] == {
        "A.on": "false",
        "A.blocks": "auto",
        "SaveImage.filename_prefix": "magicface_trial/weight=2.0-1",
    }
    prefix = row["set"]["SaveImage.filename_prefix"]
    assert prompts.job_of({"9": {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix}}}) == "weight=2.0-1"
    assert prompts.job_of({"9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "mine"}}}) is None


def test_the_last_line_of_a_job_counts_and_half_a_line_does_not(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text(
        '{"id": "a", "files": [], "seconds": null, "error": "no", "told": []}\n'
        '{"id": "a", "files": ["a.png", "shown/a.png", "a_2.png"], "seconds": 2.5, "error": null,'
        ' "told": ["MagicFaceSegmentationPreview (node 9): one: two"]}\n{"id": "a", "fil'
    )
    outcome = jobs._outcomes(tmp_path)["a"]
    assert outcome == jobs.Outcome((tmp_path / "a.png", tmp_path / "a_2.png"), 2.5, ("one: two",), None)


def test_a_checkpoint_is_known_by_name_and_by_file() -> None:
    names = ["sdxl/mine.safetensors", "other.ckpt", "a/twice.ckpt", "b/twice.ckpt"]
    for given in ("sdxl/mine.safetensors", "mine.safetensors", "/home/me/mine.safetensors", r"C:\mine.safetensors"):
        assert host.named(given, names) == names[0]
    for given, said in (("twice.ckpt", "may be a/twice.ckpt or b/twice.ckpt"), ("othr.ckpt", "it has other.ckpt")):
        with pytest.raises(TrialError, match=said):
            host.named(given, names)
    with pytest.raises(TrialError, match="it has none"):
        host.named("mine.safetensors", [])


# --- measures

WEIGHT = grid.settings(512)[0]
LEFT, TOP = np.zeros((2, 4, 4), bool)
LEFT[:, :2] = True
TOP[:1] = True


def run(variant: grid.Variant, seed: int, **given: Any) -> measures.Run:
    return measures.Run(variant, seed, Path("x.png"), seconds=1.0 + seed, **given)


def test_shares_and_agreement_of_a_run() -> None:
    empty = np.zeros((4, 4), bool)
    made = run(grid.Variant("x"), 1, regions={"hat": LEFT, "face": empty}, words={"hat": TOP, "face": empty})
    assert made.shares == {"hat": 0.5, "face": 0.0}
    assert made.agreement == {"hat": 2 / 10, "face": 0.0}
    assert made.found == ["hat"]
    assert measures.overlap(LEFT, LEFT) == 1.0


def test_masks_are_read_only_if_all_are_there(tmp_path: Path) -> None:
    for name, mask in (("a", LEFT), ("b", TOP)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{name}.png")
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    read = measures.read_masks(files, ["hat", "face"])
    assert list(read) == ["hat", "face"] and np.array_equal(read["hat"], LEFT) and np.array_equal(read["face"], TOP)
    assert measures.read_masks(files[:1], ["hat", "face"]) == {}
    assert measures.read_mask(files[0], (8, 12)).shape == (12, 8)


def test_a_picture_survives_in_its_address() -> None:
    ramp = np.linspace(0, 255, 600, dtype=np.uint8)
    made = Image.merge("RGB", [Image.fromarray(np.tile(ramp, (300, 1)))] * 3)
    kind, _, data = drawing.data_uri(made).partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as read:
        assert (kind, read.format, read.size) == ("data:image/jpeg;base64", "JPEG", (512, 256))
        expected = np.asarray(made.resize(read.size, Image.Resampling.BICUBIC), dtype=float)
        assert np.abs(np.asarray(read, dtype=float) - expected).max() < 8


def test_regions_are_coloured_and_masks_of_words_outlined() -> None:
    region, word = np.zeros((2, 64, 64), bool)
    region[:, :32] = True
    word[8:56, 40:60] = True
    made = np.asarray(drawing.over(Image.new("RGB", (64, 64)), {"hat": region}, {"hat": word}, ["face", "hat"]))
    own = np.array([int(drawing.COLOURS[1][at : at + 2], 16) for at in (1, 3, 5)])
    assert np.abs(made[30, 10] - 0.55 * own).max() <= 1, "inside the region"
    assert not made[30, 50].any() and not made[2, 62].any(), "inside and outside the mask of the word"
    assert np.array_equal(made[30, 40], own), "at its edge"


def verdict_on(*of_variants: tuple[float, list[tuple[np.ndarray, np.ndarray]]]) -> verdicts.Verdict:
    """A verdict on the weight; for each value a region and a mask of words for each seed, the default's first."""
    made = []
    for value, pairs in of_variants:
        variant = grid.Variant(f"weight={value}", WEIGHT, value) if made else grid.Variant(grid.DEFAULT)
        made += [
            run(variant, n, regions={"hat": region}, words={"hat": word}) for n, (region, word) in enumerate(pairs)
        ]
    (found,) = verdicts.verdicts(made, {WEIGHT.place: of_variants[0][0]}, ["hat"])
    return found


def test_a_value_is_better_if_it_agrees_better_with_every_seed() -> None:
    good, bad = (LEFT, LEFT), (LEFT, TOP)
    found = verdict_on((1.5, [bad, bad]), (2.0, [good, bad]), (1.0, [good, good]))
    assert (found.best.value, found.clear) == (1.0, True)
    assert [score.value for score in found.ordered] == [1.0, 1.5, 2.0]
    assert [score.agreement for score in found.scores] == [0.2, 0.6, 1.0]
    assert found.default.seconds == 1.0, "of the fastest run"
    found = verdict_on((1.5, [bad, bad]), (2.0, [good, bad]))
    assert (found.best.value, found.clear) == (1.5, False)


def test_a_region_for_every_concept_comes_first() -> None:
    empty = np.zeros((4, 4), bool)
    found = verdict_on((1.5, [(LEFT, LEFT), (empty, LEFT)]), (2.0, [(LEFT, TOP), (LEFT, TOP)]))
    assert (found.best.value, found.best.found, found.default.found) == (2.0, 1.0, 0.5)


def test_a_failed_run_counts_as_nothing_found() -> None:
    failed = [replace(run(grid.Variant("weight=2.0", WEIGHT, 2.0), n), picture=None, seconds=None) for n in (1, 2)]
    score = verdicts.score(failed, 2.0, ["hat"])
    assert (score.found, score.by_seed, score.seconds) == (0.0, (0.0, 0.0), None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot read /home/me/models/a.safetensors (node 1)", "cannot read a.safetensors (node 1)"),
        (r"'C:\Users\me\a.png' is no picture", "'a.png' is no picture"),
        ("http://10.0.0.3:8188 refused it", " refused it"),
        ("~/pictures/hat.png", "hat.png"),
        (
            "blocks at 1/2, 1/4 and 1/8; output.3-5 and/or middle",
            "blocks at 1/2, 1/4 and 1/8; output.3-5 and/or middle",
        ),
    ],
)
def test_reports_name_no_places(text: str, told: str) -> None:
    assert report.without_places(text) == told


# --- page


@pytest.fixture
def with_a_failure(tmp_path: Path) -> report.Trial:
    """A trial in which a node told something, a job failed, and a word has signs of HTML."""
    file, mask = picture(tmp_path / "hat.png"), tmp_path / "mask.png"
    Image.new("L", (8, 6), 255).save(mask)
    region = np.ones((6, 8), bool)
    word = "<hat>"
    shown = {"picture": file, "seconds": 2.0, "regions": {word: region}, "words": {word: region}}
    runs = [
        measures.Run(grid.Variant(grid.DEFAULT), 1, **shown, findings=["no <mask> in /home/me/hat.png."]),
        measures.Run(grid.Variant(grid.WITHOUT), 1, file, seconds=1.0),
        measures.Run(grid.Variant("weight=2.0", WEIGHT, 2.0), 1, error="out of memory (node 7, KSampler)"),
    ]
    usual = {"MagicFaceMaskWeight": {"weight": 1.5}, "KSampler": {"steps": 2, "cfg": 7.0}}
    given = concepts.Concept(word, "a <hat>", file, None)
    return report.Trial(
        {"comfyui": "1", "pytorch": "2", "device": "cpu"}, "mine.safetensors", "a <hat>", 8, usual, [given],
        [replace(given, mask=mask)], [None], runs, verdicts.verdicts(runs, {WEIGHT.place: 1.5}, [word]),
    )  # fmt: skip


def test_failures_and_findings_are_told(with_a_failure: report.Trial) -> None:
    text = page.page_of(with_a_failure)
    assert "failed: out of memory (node 7, KSampler)" in text and "weight=2.0, seed 1" in text
    assert "no &lt;mask&gt; in hat.png." in text and "default, seed 1" in text
    assert "<hat>" not in text and "/home/me" not in text
    assert text.count("data:image/jpeg") == 1 + 2 + 2 + 2, (
        "a reference, both first tiles, and the default beside weight 2"
    )
    default, _, failed = report.figures_of(with_a_failure)["runs"]
    assert default["findings"] == ["no <mask> in hat.png."] and default["error"] is None
    assert failed["error"] == "out of memory (node 7, KSampler)" and failed["region_share"] == {}
    assert trial.summary(with_a_failure)[0] == "1 of 3 pictures failed; the page says why"
