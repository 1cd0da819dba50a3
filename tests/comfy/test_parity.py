"""The authors' recorded runs, repeated through the product. The recordings are not the project's to hand on."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from devtools import incore
from lab import parity

GOLDEN = incore.ROOT.parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the authors' recorded runs are not in {GOLDEN}")


@pytest.mark.rounding
@pytest.mark.parametrize("name", ["one", "two"])
def test_every_step_is_the_authors(name):
    steps = list(parity.compare(GOLDEN / f"{name}.safetensors"))
    assert len(steps) == 10
    assert all(step.agrees for step in steps)
    assert max(step.latent_error for step in steps) < 2e-4


@pytest.fixture
def changed(tmp_path, capsys):
    """`changed(change)`: the steps of the run of two that differ once the file's tensors or settings are changed."""

    def differing(change):
        file = tmp_path / "changed.safetensors"
        with safe_open(GOLDEN / "two.safetensors", "pt") as recorded:
            tensors = {name: recorded.get_tensor(name) for name in recorded.keys()}  # noqa: SIM118
            settings = recorded.metadata()
        change(tensors, settings)
        save_file(tensors, file, settings)
        differs = parity.main([str(file)])
        told = [line for line in capsys.readouterr().out.splitlines() if "<- differs" in line]
        assert bool(told) == bool(differs)
        return [int(line.split()[0]) for line in told]

    return differing


def test_masks_and_latents_that_differ_are_told(changed):
    """Wrong masks in their own step, whose guidance goes by them, and in the blend stage of the next one."""

    def change(tensors, settings):
        tensors["ca_masks"][6] = tensors["ca_masks"][6].flip(-1)
        tensors["latents"][9] += 0.01

    assert changed(change) == [6, 7, 9]


def test_one_wrong_pixel_is_told(changed):
    """Of the last step, whose masks steer nothing after it."""

    def change(tensors, settings):
        pixel = tensors["ca_masks"][9][0, :, 3, 3]
        pixel.copy_(torch.nn.functional.one_hot((pixel.argmax() + 1) % len(pixel), len(pixel)))

    assert changed(change) == [9]


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [("mask_weights", [1.2, 2.3], range(9)), ("ca_scale", 0.95, range(10))],
)
def test_a_wrong_setting_is_told(changed, setting, value, expected):
    """In the latents (the last step leaves them as they are), or in the masks."""

    def set_wrong(tensors, settings):
        settings[setting] = json.dumps(value)

    assert changed(set_wrong) == list(expected)


def test_a_wrong_switch_is_told_where_it_is_wrong(changed):
    """In the one step that is of the other stage then."""

    def set_wrong(tensors, settings):
        wrong.append(int(settings["inject_step"]) + 1)
        settings["inject_step"] = str(wrong[0])

    wrong = []
    assert changed(set_wrong) == wrong
