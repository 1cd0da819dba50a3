"""The recorder of the authors' program, with a stand-in loop that calls UNet and scheduler as their pipeline does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lab.record_authors import Recorder, main, spans

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
STEPS, SIDE, WIDTH, TOKENS = 3, 8, 5, 77
CONFIG = {
    "sample_size": SIDE,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "act_fn": "silu",
}


class StandInUNet(torch.nn.Module):
    """A stand-in for diffusers' UNet; with the method it adds 1, without it 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = torch.nn.Conv2d(4, 4, 1)
        self.config = CONFIG
        self.method = 1.0

    def set_default_attn_processor(self) -> None:
        self.method = 0.0

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **_: Any) -> Any:
        out = self.conv_in(sample) + encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None] + self.method
        return SimpleNamespace(sample=out)


class StandInScheduler:
    """The functions of diffusers' DDIM scheduler that the loop calls."""

    alphas_cumprod = torch.linspace(0.99, 0.01, 1000)

    def add_noise(self, original: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return original + noise

    def step(self, guided: Tensor, timestep: Any, latents: Tensor, return_dict: bool = True) -> Any:
        return (latents - 0.1 * guided,) if not return_dict else SimpleNamespace(prev_sample=latents - 0.1 * guided)


def get_mask(store: Any, r: int = 2, ref_index: Any = None, ca_scale: float = 0.9) -> list[Tensor]:
    """Masks of the segmentation; the pipeline below looks it up in this module, as the authors' does."""
    mask = torch.zeros(1, TOKENS, SIDE // 2, SIDE // 2)
    mask[:, 1 + store["calls"] % 2] = 1
    store["calls"] += 1
    return [mask, torch.ones(1, 1, SIDE // 2, SIDE // 2)]


class StandInPipeline:
    """The loop: each step noises the references, calls the UNet with all rows, segments and steps."""

    def __init__(self, views: int) -> None:
        self.unet, self.scheduler = StandInUNet(), StandInScheduler()
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.randn(1 + views, 4, SIDE, SIDE, generator=generator)
        self.text = torch.randn(2 * (1 + views), TOKENS, WIDTH, generator=generator)
        self.text[: 1 + views] = self.text[:1]
        self.seen: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, guidance_scale: float, ca_scale: float) -> None:
        latents, clean = self.latents, self.latents[1:]
        store = {"calls": 0}
        for t in torch.tensor([900, 500, 100]):
            noisy = self.scheduler.add_noise(clean, torch.randn_like(clean), t.reshape(1))
            latents = torch.cat([latents[:1], noisy])
            out = self.unet(torch.cat([latents] * 2), t, encoder_hidden_states=self.text).sample
            uncond, cond = out.chunk(2)
            sys.modules[__name__].get_mask(store, r=2, ref_index=[2], ca_scale=ca_scale)  # type: ignore[attr-defined]
            guided = uncond + guidance_scale * (cond - uncond)
            latents = self.scheduler.step(guided, t, latents, return_dict=False)[0]
            self.seen.append(latents[:1])


def attention(views: int) -> SimpleNamespace:
    masks = [torch.zeros(1, 1, 128, 128, dtype=torch.uint8) for _ in range(views)]
    for index, mask in enumerate(masks):
        mask[..., : 32 * (index + 1), :] = 1
    return SimpleNamespace(
        ref_index=[2, 5][:views],
        mask_weights=[3.0, 1.2][:views],
        inject_step=1,
        layer_idx=[10, 11, 12, 14],
        ref_masks=masks,
    )


def record_run(views: int, file: Path) -> tuple[StandInPipeline, dict[str, Tensor], dict[str, str]]:
    pipeline, recorder = StandInPipeline(views), Recorder("case", 7)
    with recorder.watching(pipeline, attention(views), guidance=7.5):
        pipeline(guidance_scale=7.5, ca_scale=0.6)
    recorder.write(file)
    with safe_open(file, "pt") as opened:
        return pipeline, {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


@pytest.mark.parametrize("views", [1, 2])
def test_every_tensor_has_its_shape(views: int, tmp_path: Path) -> None:
    _, tensors, _ = record_run(views, tmp_path / "run.safetensors")
    square, half = (4, SIDE, SIDE), (SIDE // 2, SIDE // 2)
    assert {name: tuple(t.shape) for name, t in tensors.items() if not name.startswith("unet.")} == {
        "z_T": (1, *square),
        "ref_latents": (views, *square),
        "ref_masks": (views, 1, 128, 128),
        "cond": (1 + views, TOKENS, WIDTH),
        "uncond": (1, TOKENS, WIDTH),
        "noises": (STEPS, views, *square),
        "latents": (STEPS, 1, *square),
        "eps": (STEPS, 1, *square),
        "ca_masks": (STEPS, 1, TOKENS, *half),
        "fore_masks": (STEPS, 1, 1, *half),
        "plain": (2, *square),
        "timesteps": (STEPS,),
        "alphas_cumprod": (1000,),
    }
    assert tensors["timesteps"].dtype == torch.int64 and tensors["ref_masks"].dtype == torch.uint8
    assert {name for name in tensors if name.startswith("unet.")} == {"unet.conv_in.weight", "unet.conv_in.bias"}


def test_tensors_are_what_the_loop_computed(tmp_path: Path) -> None:
    pipeline, tensors, _ = record_run(2, tmp_path / "run.safetensors")
    assert torch.equal(tensors["z_T"], pipeline.latents[:1])
    assert torch.equal(tensors["ref_latents"], pipeline.latents[1:])
    assert torch.equal(tensors["uncond"], pipeline.text[:1]) and torch.equal(tensors["cond"], pipeline.text[3:])
    assert torch.equal(tensors["latents"], torch.stack(pipeline.seen))
    assert not torch.equal(tensors["noises"][0], tensors["noises"][1])
    assert tensors["ca_masks"].sum(dim=(0, 1, 3, 4))[1:3].tolist() == [2 * 16, 1 * 16]
    assert tensors["ref_masks"].sum(dim=(1, 2, 3)).tolist() == [32 * 128, 64 * 128]
    text = torch.cat([tensors["uncond"], tensors["cond"][:1]]).mean(dim=(1, 2))
    without = pipeline.unet.conv_in(torch.cat([tensors["z_T"]] * 2)) + text[:, None, None, None]
    assert torch.equal(tensors["plain"], without)


def test_the_metadata_describe_the_run(tmp_path: Path) -> None:
    _, _, metadata = record_run(2, tmp_path / "run.safetensors")
    config = json.loads(metadata.pop("unet_config"))
    assert metadata == {
        "ref_index": "[2, 5]",
        "mask_weights": "[3.0, 1.2]",
        "inject_step": "1",
        "layers": "10-12,14",
        "ca_scale": "0.6",
        "guidance": "7.5",
        "steps": "3",
        "H": "8",
        "case": "case",
        "seed": "7",
    }
    assert config["block_out_channels"] == [32, 64] and "act_fn" not in config


def test_wrapped_functions_are_restored(tmp_path: Path) -> None:
    before = get_mask
    pipeline, _, _ = record_run(1, tmp_path / "run.safetensors")
    assert get_mask is before is sys.modules[__name__].get_mask  # type: ignore[attr-defined]
    assert not vars(pipeline.scheduler) and not pipeline.unet._forward_pre_hooks


def test_an_incomplete_run_is_refused(tmp_path: Path) -> None:
    recorder, pipeline = Recorder(), StandInPipeline(1)
    with pytest.raises(ValueError, match="recorded run is incomplete"), recorder.watching(pipeline, attention(1), 7.5):
        pass
    with pytest.raises(ValueError, match="no run was recorded"):
        recorder.write(tmp_path / "run.safetensors")


@pytest.mark.parametrize("numbers, text", [([10, 11, 12, 13, 14, 15], "10-15"), ([3], "3"), ([5, 1, 2], "1-2,5")])
def test_spans(numbers: list[int], text: str) -> None:
    assert spans(numbers) == text


def test_the_command_runs_the_readers_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "readers_run.py").write_text(
        f"import sys\nowner = sys.modules[{__name__!r}]\n"
        "def generate(recorder):\n"
        "    pipeline = owner.StandInPipeline(1)\n"
        "    with recorder.watching(pipeline, owner.attention(1), 2.0):\n"
        "        pipeline(2.0, 0.9)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    file = tmp_path / "run.safetensors"
    options = ["--program", str(tmp_path), "--call", "readers_run:generate", "--output", str(file), "--seed", "3"]
    assert main(options) == 0
    assert "3 steps" in capsys.readouterr().out
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["case"] == "run" and opened.metadata()["seed"] == "3"


class ReplayPipeline(StandInPipeline):
    """The loop, replaying the values of a recorded run instead of computing them."""

    def __init__(self, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
        self.tensors = tensors
        self.unet = StandInUNet()
        self.unet.config = config
        self.unet.forward = self.replay_unet  # type: ignore[method-assign]
        weights = {name.removeprefix("unet."): tensor for name, tensor in tensors.items() if name.startswith("unet.")}
        self.unet.state_dict = lambda: weights  # type: ignore[method-assign, assignment]
        self.scheduler = SimpleNamespace(  # type: ignore[assignment]
            alphas_cumprod=tensors["alphas_cumprod"],
            add_noise=lambda original, noise, t: original,
            step=lambda guided, t, latents, return_dict: (tensors["latents"][self.number],),
        )

    def replay_unet(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(sample=self.tensors["plain"])

    def __call__(self, guidance_scale: float, ca_scale: float) -> None:
        tensors = self.tensors
        cond, views = tensors["cond"], len(tensors["ref_latents"])
        text = torch.cat([tensors["uncond"].expand(1 + views, -1, -1), cond])
        latents = torch.cat([tensors["z_T"], tensors["ref_latents"]])
        for self.number, t in enumerate(tensors["timesteps"]):
            self.scheduler.add_noise(latents[1:], tensors["noises"][self.number], t.reshape(1))
            self.unet(torch.cat([latents] * 2), t, encoder_hidden_states=text)
            masks = [tensors["ca_masks"][self.number], tensors["fore_masks"][self.number]]
            sys.modules[__name__].get_mask(masks, ca_scale=ca_scale)  # type: ignore[attr-defined]
            self.scheduler.step(tensors["eps"][self.number], t, latents, return_dict=False)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the authors' recorded runs are not in {GOLDEN}")
@pytest.mark.parametrize("case", ["one", "two"])
def test_replaying_a_recorded_run_records_the_same_tensors(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with safe_open(GOLDEN / f"{case}.safetensors", "pt") as opened:
        expected = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata()
    monkeypatch.setattr(sys.modules[__name__], "get_mask", lambda masks, ca_scale: masks)
    settings = SimpleNamespace(
        ref_index=json.loads(metadata["ref_index"]),
        mask_weights=json.loads(metadata["mask_weights"]),
        inject_step=int(metadata["inject_step"]),
        layer_idx=list(range(10, 16)),
        ref_masks=list(expected["ref_masks"].split(1)),
    )
    recorder = Recorder(metadata["case"], int(metadata["seed"]))
    pipeline = ReplayPipeline(expected, json.loads(metadata["unet_config"]))
    with recorder.watching(pipeline, settings, float(metadata["guidance"])):
        pipeline(float(metadata["guidance"]), float(metadata["ca_scale"]))
    recorder.write(tmp_path / "run.safetensors")
    with safe_open(tmp_path / "run.safetensors", "pt") as opened:
        found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        our_metadata = opened.metadata()
    assert our_metadata == metadata
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
