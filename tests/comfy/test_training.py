"""Training gets the same inputs as calls through ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.sd
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from devtools.tiny_pack import tiny_model
from devtools.tiny_pack.families import PORTRAITS
from lab import judge
from lab.judge import PARTS
from lab.portraits import draw_portrait
from lab.training import autoencoder, denoiser, drawn_set, judging, text, train
from lab.training.drawn_set import CAPTIONS, Drawings, labels_of

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
    drawn = [draw_portrait("train", number) for number in range(3)]
    captions = [[CAPTION] * CAPTIONS for _ in drawn]
    patterns = np.zeros((len(drawn), len(PARTS)), np.uint8)
    return Drawings(np.stack([d.picture for d in drawn]), np.stack([labels_of(d) for d in drawn]), patterns, captions)


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
    before = coder.eval().decode(torch.ones(1, 4, 4, 4))
    autoencoder.finish(coder, {}, pictures, scale)
    latents = coder.encode(pictures) * scale
    assert latents.shape == (3, 4, 32, 32)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=0.01, rtol=0)
    torch.testing.assert_close(coder.decode(torch.ones(1, 4, 4, 4) / scale), before, atol=1e-4, rtol=0)


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
        losses = phase.losses(step % 2)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert all(history[-1][name] < history[0][name] for name in ("noise", "nouns"))
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
    shipped = [Path(tiny_model.__file__).with_name(str(PORTRAITS.file)), judge.WEIGHTS]
    for file in shipped:
        made, kept = (shapes(path) for path in (tmp_path / "out" / file.name, file))
        assert made == kept


def shapes(file: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shapes and types of the tensors in a file."""
    return {name: (weight.shape, weight.dtype) for name, weight in safetensors.torch.load_file(file).items()}
