"""The small models behave like loaded checkpoints."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import comfy.lora
import comfy.model_sampling
import comfy.sample
import comfy.sd
import pytest
import safetensors
import safetensors.torch
import torch

from lab.portraits import STYLES, draw_portrait

RANDOM = ["sdxl", "sd2", "sd1"]
FAMILIES = ["portraits", *RANDOM]
XL = ("portraits", "sdxl")
CONTEXT_WIDTH = {"portraits": 80, "sdxl": 80, "sd2": 48, "sd1": 32}


@pytest.fixture(autouse=True)
def _no_grad():
    """ComfyUI runs every node without gradients."""
    with torch.inference_mode():
        yield


def encode(clip, text):
    """The conditioning from CLIPTextEncode."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sample(model, clip, *, steps=3, cfg=4.0, callback=None):
    """A (1, 4, 16, 24) latent of a short run."""
    latent = torch.zeros(1, 4, 16, 24)
    noise = comfy.sample.prepare_noise(latent, 7)
    positive, negative = encode(clip, "a portrait of a man"), encode(clip, "")
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        "euler",
        "normal",
        positive,
        negative,
        latent,
        seed=7,
        disable_pbar=True,
        callback=callback,
    )


def state_dicts(loaded):
    model, clip, vae = loaded
    return [module.state_dict() for module in (model.model, clip.cond_stage_model, vae.first_stage_model)]


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_is_finite_and_in_the_range_of_latents(tiny, family):
    model, clip, _ = tiny(family)
    latent = sample(model, clip, steps=8)
    assert latent.shape == (1, 4, 16, 24)
    std = float(latent.std()) * model.model.latent_format.scale_factor
    assert 0.5 < std < 4  # the noise has 14.6


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_changes_the_latent(tiny, family):
    model, clip, _ = tiny(family)
    assert not torch.allclose(sample(model, clip, cfg=1.0), sample(model, clip, cfg=4.0), rtol=0.05)


def test_v_prediction_can_be_sampled(tiny, tiny_model):
    model = tiny_model.load_unet("sd2", 0, torch.float32, v_prediction=True)
    assert isinstance(model.model.model_sampling, comfy.model_sampling.V_PREDICTION)
    assert sample(model, tiny("sd2")[1]).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_other_weight_types_can_be_sampled(tiny, tiny_model, dtype):
    model = tiny_model.load_unet("sdxl", 0, dtype)
    assert model.model.get_dtype() == dtype
    assert sample(model, tiny("sdxl")[1]).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("text", "windows"), [("a (red:1.4) beard", 1), ("a (red:1.4) beard " * 60, 3)])
def test_prompts_of_several_chunks_are_encoded(tiny, family, text, windows):
    [[tokens, extra]] = encode(tiny(family)[1], text)
    assert tokens.shape == (1, 77 * windows, CONTEXT_WIDTH[family])
    assert tokens.isfinite().all() and 0.2 < float(tokens.std()) < 3
    assert extra["pooled_output"].shape == (1, {"sd1": 32}.get(family, 48))


def test_weights_and_clip_skip_change_the_prompt(tiny):
    clip = tiny("sdxl")[1]
    plain, weighted = (encode(clip, text)[0][0] for text in ("a red beard", "a (red:1.4) beard"))
    skipping = clip.clone()
    skipping.clip_layer(-3)
    assert not torch.equal(plain, weighted)
    assert not torch.equal(plain, encode(skipping, "a red beard")[0][0])
    assert torch.equal(plain, encode(clip, "a red beard")[0][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_reaches_model_and_text_encoder(tiny, family):
    model, clip, _ = tiny(family)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    text_keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    unet_layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    text_layer = "lora_te2_" if family in XL else "lora_te_"
    text_layer += "text_model_encoder_layers_1_mlp_fc1"
    assert unet_layer in keys and text_layer in text_keys
    weights = {**model.model.state_dict(), **clip.cond_stage_model.state_dict()}
    lora = {}
    for layer, key in ((unet_layer, keys[unet_layer]), (text_layer, text_keys[text_layer])):
        rows, columns = weights[key].shape
        lora[f"{layer}.lora_up.weight"], lora[f"{layer}.lora_down.weight"] = torch.ones(rows, 1), torch.ones(1, columns)
    changed, changed_clip = comfy.sd.load_lora_for_models(model, clip, lora, 0.5, 0.5)
    assert not torch.equal(encode(clip, "a man")[0][0], encode(changed_clip, "a man")[0][0])
    assert not torch.equal(sample(model, clip), sample(changed, clip))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_autoencoder_encodes_and_decodes(tiny, family):
    model, _, vae = tiny(family)
    pixels = torch.rand(2, 8, 12, 3, generator=torch.Generator().manual_seed(0))
    pixels = pixels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    latent = vae.encode(pixels)
    assert latent.shape == (2, 4, 16, 24)
    assert 0.5 < float(latent.std()) * model.model.latent_format.scale_factor < 2
    assert not torch.allclose(latent[0], latent[1], atol=0.1 * float(latent.std()))
    decoded = vae.decode(latent)
    assert decoded.shape == pixels.shape and decoded.isfinite().all()
    assert float(decoded.std()) > 0.05 and float((decoded[0] - decoded[1]).abs().mean()) > 0.01
    assert vae.encode(torch.rand(1, 65, 78, 3)).shape == (1, 4, 8, 9)


@pytest.mark.parametrize("family", RANDOM)
def test_the_seed_decides_every_bit(tiny_model, family):
    first, again, other = (state_dicts(tiny_model.load(family, seed)) for seed in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        assert any(not torch.equal(a[key], c[key]) for key in a)


def test_the_global_random_state_does_not_change(tiny_model):
    before, before_python = torch.get_rng_state(), random.getstate()
    tiny_model.load("sd1", 3)
    assert torch.equal(torch.get_rng_state(), before) and random.getstate() == before_python


def test_an_unknown_family_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"'sd3'.*sdxl, sd2, sd1"):
        tiny_model.load("sd3")


@pytest.mark.parametrize("family", ["portraits", "sd1"])
def test_factories_give_the_same_weights_again(tiny_model, family):
    model, clip, vae = tiny_model.load(family, 5)
    for patcher in (model, clip.patcher, vae.patcher):
        factory, args = patcher.cached_patcher_init
        again = factory(*args, disable_dynamic=True).model.state_dict()
        assert all(torch.equal(weight, again[key]) for key, weight in patcher.model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_sits_where_the_real_family_has_it(tiny, family):
    seen, model = {}, tiny(family)[0].clone()

    def watch(q, k, v, extra):
        place = (*extra["block"], extra["block_index"])
        seen[place] = extra["original_shape"][-1] // extra["activations_shape"][-1]
        heads, (batch, _, width) = extra["n_heads"], q.shape
        q, k, v = (t.reshape(batch, -1, heads, width // heads).transpose(1, 2) for t in (q, k, v))
        logits = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
        if family in RANDOM:
            assert 0.6 < float(logits.std(-1).mean()) < 4  # far from uniform, far from a single token
        return (logits.softmax(-1) @ v).transpose(1, 2).reshape(batch, -1, width)

    for name, number in [(name, i) for name in ("input", "middle", "output") for i in range(12)]:
        for depth in range(2):
            model.set_model_attn1_replace(watch, name, number, depth)
    sample(model, tiny(family)[1], steps=1)
    ratios = {1: {4, 5}, 2: {7, 8}} if family in XL else {0: {1, 2}, 1: {4, 5}, 2: {7, 8}}
    expected = {("input", i, 0): 2**level for level, blocks in ratios.items() for i in blocks}
    if family in XL:
        expected |= {("output", i, 0): 4 if i < 3 else 2 for i in range(6)} | {("middle", 0, 0): 4}
        expected |= {(*place[:2], 1): 4 for place, ratio in expected.items() if ratio == 4}
    else:
        expected |= {("output", i, 0): 2 ** (3 - i // 3) for i in range(3, 12)} | {("middle", 0, 0): 8}
    assert seen == expected


def test_the_trained_models_file_is_small_and_describes_its_training(tiny_model):
    file = Path(tiny_model.__file__).with_name("portraits.safetensors")
    assert file.stat().st_size <= 24e6
    with safetensors.safe_open(file, "pt") as kept:
        record = json.loads(kept.metadata()["training"])
        assert {str(kept.get_slice(name).get_dtype()) for name in kept.keys()} <= {"F16", "I64"}  # noqa: SIM118
    for phase in ("autoencoder", "denoiser"):
        assert {"seed", "largest rate", "curve"} <= set(record[phase])
        assert record[phase]["steps"] == record[phase]["of"]
        assert record[phase]["curve"][-1][0] > 0.98 * record[phase]["steps"]
    assert {"code", "torch"} <= set(record)


def test_the_trained_model_cannot_predict_something_else(tiny_model):
    with pytest.raises(ValueError, match="'portraits' is trained: what it predicts cannot be chosen"):
        tiny_model.load("portraits", v_prediction=True)


def test_the_trained_model_saves_as_a_checkpoint(tiny, tmp_path):
    model, clip, vae = tiny("portraits")
    file = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(file), model, clip, vae)
    saved = safetensors.torch.load_file(file)
    prefix = "model.diffusion_model."
    own = model.model.diffusion_model.state_dict()
    assert all(torch.equal(saved[prefix + name].float(), weight) for name, weight in own.items())
    decoder = vae.first_stage_model.state_dict()
    assert all(torch.equal(saved[f"first_stage_model.{name}"], weight) for name, weight in decoder.items())


def test_the_trained_autoencoder_reconstructs_drawings(tiny):
    vae = tiny("portraits")[2]
    pictures = [draw_portrait("evaluation", 0, style=style).picture for style in STYLES]
    pixels = torch.stack([torch.from_numpy(picture).float() / 255 for picture in pictures])
    error = (vae.decode(vae.encode(pixels)) - pixels).abs().mean()
    assert error < 0.04


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_made_in_their_own_type_are_those_of_float32_rounded(tiny_model, dtype):
    one, other = (
        tiny_model.load_unet("sdxl", 3, each).model.diffusion_model.state_dict() for each in (torch.float32, dtype)
    )
    assert one.keys() == other.keys() and len(one) > 100
    assert all(torch.equal(one[name].to(dtype), other[name]) for name in one)
