"""Training gets the same inputs as calls through ComfyUI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.sd
import numpy as np
import pytest
import safetensors.torch
import torch
from comfy.ldm.cascade.stage_a import StageA
from torch import Tensor

from devtools.tiny_pack import tiny_model
from devtools.tiny_pack.families import PORTRAITS
from lab import judge
from lab.judge import PARTS
from lab.portraits import STYLES, draw_portrait
from lab.training import autoencoder, denoiser, drawn_set, judging, loop, text, train
from lab.training.drawn_set import CAPTIONS, Drawings, labels_of

pytestmark = pytest.mark.lab

CAPTION = "a person with hair wearing a red striped hat and a scarf"


@pytest.fixture(scope="module")
def untrained() -> denoiser.Denoiser:
    """A denoiser before its first step."""
    return denoiser.Denoiser()


@pytest.fixture(autouse=True)
def with_gradients() -> Iterator[None]:
    """Switch gradients on, whatever the state after other tests."""
    with torch.enable_grad():
        yield


def few_drawings() -> Drawings:
    drawn = [draw_portrait("train", number, style=style) for number, style in enumerate(STYLES)]
    captions = [[CAPTION] * CAPTIONS for _ in drawn]
    patterns = np.zeros((len(drawn), len(PARTS)), np.uint8)
    pictures, labels = np.stack([d.picture for d in drawn]), np.stack([labels_of(d) for d in drawn])
    return Drawings(pictures, labels, patterns, np.arange(len(drawn), dtype=np.uint8), captions)


def test_text_is_encoded_as_comfyui_does(untrained: denoiser.Denoiser) -> None:
    clip = comfy.sd.CLIP(
        tiny_model.clip_target(PORTRAITS),
        None,
        state_dict=untrained.encoders.state_dict(),
        model_options=tiny_model.clip_options(PORTRAITS),
    )
    for caption in (CAPTION, ""):
        context, pooled = text.encode(untrained.encoders, untrained.tokens([caption]))
        expected, expected_pooled = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
        torch.testing.assert_close(context.detach(), expected)
        torch.testing.assert_close(pooled.detach(), expected_pooled)
        assert context.requires_grad and pooled.requires_grad


def test_sizes_are_embedded_as_comfyui_does(untrained: denoiser.Denoiser) -> None:
    pooled = torch.randn(2, 48)
    y = untrained.adm(pooled, torch.tensor([[256, 300, 1, 2, 200, 100.0], [64, 65, 0, 0, 66, 67]]))
    sizes = {"height": 256, "width": 300, "crop_h": 1, "crop_w": 2, "target_height": 200, "target_width": 100}
    expected = untrained.model.encode_adm(pooled_output=pooled[:1], device="cpu", **sizes)
    torch.testing.assert_close(y[:1], expected)


def test_block_names_are_those_of_a_unet_call(untrained: denoiser.Denoiser) -> None:
    called: list[tuple[str, int, int]] = []

    def note(q: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        called.append((*options["block"], options["block_index"]))
        return q, context, value

    with torch.no_grad():
        untrained.unet(
            torch.zeros(1, 4, 32, 32),
            timesteps=torch.zeros(1),
            context=torch.zeros(1, 77, 80),
            y=torch.zeros(1, PORTRAITS.unet["adm_in_channels"]),
            transformer_options={"patches": {"attn2_patch": [note]}},
        )
    assert untrained.blocks == called


def test_a_caption_longer_than_a_chunk_or_a_word_of_several_tokens_is_refused(untrained: denoiser.Denoiser) -> None:
    with pytest.raises(ValueError, match="longer than one chunk"):
        untrained.tokens(["hat " * 100])
    with pytest.raises(ValueError, match="'tokenization' is 2 tokens"):
        untrained.tokens.word("tokenization")


def test_each_cell_has_the_shares_of_its_parts() -> None:
    labels = torch.zeros(1, 256, 256, dtype=torch.uint8)
    labels[:, :16, :8] = 2
    shares = denoiser.cell_shares(labels)
    assert shares.shape == (1, 1 + len(PARTS), 16, 16)
    assert shares[0, 2, 0, 0] == 0.5 and shares[0, 2].sum() == 0.5
    assert torch.equal(shares.float().sum(1), torch.ones(1, 16, 16))


def test_latents_have_the_familys_scale() -> None:
    coder = autoencoder.make()
    pictures = autoencoder.pixels(torch.from_numpy(few_drawings().pictures))
    scale = PORTRAITS.config.latent_format().scale_factor
    before = coder.eval().decode(coder.encode(pictures))
    autoencoder.finish(coder, {}, pictures, scale)
    latents = coder.encode(pictures) * scale
    assert latents.shape == (3, 4, 32, 32)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=0.01, rtol=0)
    torch.testing.assert_close(coder.decode(coder.encode(pictures)), before, atol=1e-4, rtol=0)


def test_a_few_steps_reduce_the_losses() -> None:
    untrained = denoiser.Denoiser()
    coder = autoencoder.make()
    drawings = few_drawings()
    autoencoder.finish(coder, {}, autoencoder.pixels(torch.from_numpy(drawings.pictures)), 1.0)
    data = denoiser.encode_drawings(coder, [drawings], 1.0, torch.device("cpu"))
    phase = denoiser.phase(untrained, data, 10, torch.device("cpu"))
    optimizer = torch.optim.Adam(list(phase.weights.values()), 2e-3)
    history = []
    for step in range(6):
        losses = phase.losses(2 * (step % 2))  # with the grounding losses
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert all(history[-1][name] < history[0][name] for name in ("v", "nouns"))
    unused = {name for name, weight in phase.weights.items() if weight.grad is None}
    # Only the first encoder's last layer, which SDXL does not use, gets no gradient.
    assert unused and all(name.startswith("text.clip_l.") for name in unused)


def test_training_stops_continues_and_writes_the_shipped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGICFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(drawn_set, "draw_ahead", lambda wanted: iter(()))  # each file is drawn when it is read
    monkeypatch.setattr(drawn_set, "CHUNK", 4)
    for module, name, value in (
        (train, "SINGLES", 1),
        (train, "TWINS", 1),
        (train, "AUTOENCODER_CHUNKS", 1),
        (train, "JUDGE_CHUNKS", range(100, 101)),
        (train, "STEPS", 2),
        (autoencoder, "STEPS", 2),
        (judging, "STEPS", 2),
    ):
        monkeypatch.setattr(module, name, value)
    assert train.main(0.0, False, tmp_path / "out") == 0
    assert not list((tmp_path / "out").iterdir())
    assert train.main(None, True, tmp_path / "out") == 0
    written = safetensors.torch.load_file(tmp_path / "out" / str(PORTRAITS.file))
    assert sum(weight.nbytes for weight in written.values()) <= 24e6
    unet, encoders = tiny_model.make_unet(PORTRAITS, torch.float32).diffusion_model, tiny_model.make_encoders(PORTRAITS)
    for part, module in (("unet", unet), ("text", encoders), ("vae", StageA(**PORTRAITS.vae))):
        weights = {name.removeprefix(f"{part}."): w for name, w in written.items() if name.startswith(f"{part}.")}
        weights = tiny_model.whole_tables(weights)
        assert {weight.dtype for weight in weights.values()} <= {torch.float16, torch.int64}
        assert {name: w.shape for name, w in weights.items()} == {n: w.shape for n, w in module.state_dict().items()}
    judge.load_judge(tmp_path / "out" / judge.WEIGHTS.name)

    # From these weights with a mark in each part, in two pieces.
    first, start = tmp_path / "out" / str(PORTRAITS.file), tmp_path / "start.safetensors"
    marked = {"unet.out.2.bias": 3.0, "text.clip_g.transformer.text_model.final_layer_norm.bias": 5.0}
    record = {"training": json.dumps(train.record_in(first))}
    safetensors.torch.save_file({n: w + marked.get(n, 0) for n, w in written.items()}, start, record)
    assert train.main(0.0, False, tmp_path / "more", "model", start) == 0
    start.unlink()
    assert train.main(None, True, tmp_path / "more", "model") == 0
    more = safetensors.torch.load_file(tmp_path / "more" / first.name)
    assert all(torch.equal(weight, written[name]) for name, weight in more.items() if name.startswith("vae."))
    for name, change in marked.items():
        assert (more[name].float() - written[name] - change).abs().max() < 0.1
    earlier, record = train.record_in(first), train.record_in(tmp_path / "more" / first.name)
    assert record["denoiser"]["earlier"] == earlier["denoiser"] and record["autoencoder"] == earlier["autoencoder"]


@pytest.mark.parametrize(("resume", "only"), [(True, None), (False, "judge"), (False, "autoencoder")])
def test_a_start_that_has_no_meaning_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], resume: bool, only: str | None
) -> None:
    monkeypatch.setenv("MAGICFACE_CACHE", str(tmp_path))
    kept = tmp_path / "training" / "checkpoints" / "denoiser.pt"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert train.main(None, resume, tmp_path / "out", only, tmp_path / "start.safetensors") == 1
    assert "leave out --resume and --only" in capsys.readouterr().err and kept.exists()


def test_a_start_that_is_missing_leaves_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGICFACE_CACHE", str(tmp_path))
    kept = tmp_path / "training" / "checkpoints" / "denoiser.pt"
    kept.parent.mkdir(parents=True)
    kept.touch()
    with pytest.raises(FileNotFoundError):
        train.main(None, False, tmp_path / "out", None, tmp_path / "missing.safetensors")
    assert kept.exists()


def test_unknown_tokens_have_rows_of_zeros() -> None:
    name = f"text_model.embeddings.{tiny_model.TABLE}"
    table = torch.arange(2.0 * tiny_model.VOCABULARY).view(-1, 2) + 1
    known = torch.tensor([3, 70, 49407])
    small = tiny_model.known_rows({name: table, "other": table[:2]}, known)
    assert sum(weight.nbytes for weight in small.values()) < 100
    whole = tiny_model.whole_tables(small)
    assert set(whole) == {name, "other"} and torch.equal(whole["other"], table[:2])
    assert torch.equal(whole[name][known], table[known]) and int(whole[name].any(1).sum()) == len(known)


def test_steps_are_the_same_after_a_stop(tmp_path: Path) -> None:
    coder, drawings = autoencoder.make(), few_drawings()
    autoencoder.finish(coder, {}, autoencoder.pixels(torch.from_numpy(drawings.pictures)), 1.0)
    data = denoiser.encode_drawings(coder, [drawings], 1.0, torch.device("cpu"))

    def trained(folder: Path, stops: int | None) -> dict[str, Tensor]:
        phase = denoiser.phase(denoiser.Denoiser(), data, 3, torch.device("cpu"))
        if stops is not None:
            phase.losses = interrupted(phase.losses, stops * phase.parts)
            with pytest.raises(KeyboardInterrupt):
                loop.run(phase, folder)
            phase = denoiser.phase(denoiser.Denoiser(), data, 3, torch.device("cpu"))
        return loop.run(phase, folder).average

    expected, resumed = trained(tmp_path / "whole", None), trained(tmp_path / "parts", 2)
    assert all(torch.equal(weight, resumed[name]) for name, weight in expected.items())


def interrupted(losses: Any, number: int) -> Any:
    """Losses that end the training at a part."""

    def until(part: int) -> Any:
        if part >= number:
            raise KeyboardInterrupt
        return losses(part)

    return until


def test_the_autoencoder_continues_from_a_finished_one() -> None:
    pictures = autoencoder.pixels(torch.from_numpy(few_drawings().pictures[:, :64, :64]))
    finished = autoencoder.make()
    autoencoder.finish(finished, {}, pictures, 0.13)
    again = autoencoder.make()
    autoencoder.continue_from(again, finished.state_dict(), 0.13)
    latents = again.eval().encode(pictures)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=0.02, rtol=0)
    others = pictures.flip(1) / 2  # other colours, of another mean
    torch.testing.assert_close(
        again.decode(again.encode(others)), finished.decode(finished.encode(others)), atol=1e-4, rtol=0
    )
