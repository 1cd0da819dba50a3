"""The authors' recorded runs, repeated through the product. The recordings are not the project's to hand on."""

from __future__ import annotations

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from devtools import incore
from lab import parity

GOLDEN = incore.ROOT.parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the authors' recorded runs are not in {GOLDEN}")


@pytest.mark.parametrize("name", ["one", "two"])
def test_every_step_is_the_authors(name):
    steps = list(parity.compare(GOLDEN / f"{name}.safetensors"))
    assert len(steps) == 10
    assert all(step.holds for step in steps)
    assert max(step.latent_error for step in steps) < 2e-4


def test_a_run_that_differs_is_told(tmp_path, capsys):
    changed = tmp_path / "changed.safetensors"
    with safe_open(GOLDEN / "one.safetensors", "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["ca_masks"][7] = tensors["ca_masks"][7].flip(-1)
    tensors["latents"][9] += 0.01
    save_file(tensors, changed, metadata)
    assert parity.main([str(changed)]) == 1
    logged = [line for line in capsys.readouterr().out.splitlines() if "differs" in line]
    assert [line.split()[0] for line in logged] == ["7", "9"]
