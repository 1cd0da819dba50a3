"""The authors' recorded runs, repeated with the product. The recordings may not be redistributed with the project."""

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
def test_every_step_equals_the_authors_step(name):
    steps = list(parity.compare(GOLDEN / f"{name}.safetensors"))
    assert len(steps) == 10
    assert all(step.agrees for step in steps)
    assert max(step.latent_error for step in steps) < 2e-4


@pytest.fixture
def steps_that_differ(tmp_path, capsys):
    """`steps_that_differ(change)`: steps that differ after changing the tensors or settings of a recorded run."""

    def compare(change):
        file = tmp_path / "changed.safetensors"
        with safe_open(GOLDEN / "two.safetensors", "pt") as recorded:
            tensors = {name: recorded.get_tensor(name) for name in recorded.keys()}  # noqa: SIM118
            settings = recorded.metadata()
        change(tensors, settings)
        save_file(tensors, file, settings)
        differs = parity.main([str(file)])
        reported = [line for line in capsys.readouterr().out.splitlines() if "<- differs" in line]
        assert bool(reported) == bool(differs)
        return [int(line.split()[0]) for line in reported]

    return compare


def test_masks_and_latents_that_differ_are_reported(steps_that_differ):
    """Wrong masks show in their own step, through its guidance, and in the next step, through its blend stage."""

    def change(tensors, settings):
        tensors["ca_masks"][6] = tensors["ca_masks"][6].flip(-1)
        tensors["latents"][9] += 0.01

    assert steps_that_differ(change) == [6, 7, 9]


def test_one_wrong_pixel_is_reported(steps_that_differ):
    """The masks of the last step steer nothing after it."""

    def change(tensors, settings):
        pixel = tensors["ca_masks"][9][0, :, 3, 3]
        pixel.copy_(torch.nn.functional.one_hot((pixel.argmax() + 1) % len(pixel), len(pixel)))

    assert steps_that_differ(change) == [9]


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [("mask_weights", [1.2, 2.3], range(9)), ("ca_scale", 0.95, range(10))],
)
def test_a_wrong_setting_is_reported(steps_that_differ, setting, value, expected):
    """It shows in the latents (which the last step does not change), or in the masks."""

    def set_wrong(tensors, settings):
        settings[setting] = json.dumps(value)

    assert steps_that_differ(set_wrong) == list(expected)


def test_a_wrong_switch_is_reported_at_its_step(steps_that_differ):
    """It shows in the one step that is then in the other stage."""

    def set_wrong(tensors, settings):
        wrong.append(int(settings["inject_step"]) + 1)
        settings["inject_step"] = str(wrong[0])

    wrong = []
    assert steps_that_differ(set_wrong) == wrong
