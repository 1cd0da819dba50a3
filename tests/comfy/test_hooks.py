"""Hooks: LoRAs of some conds or some steps. Reference passes use the weights of the cond that attends to them."""

from __future__ import annotations

import comfy.lora
import comfy.sd
import comfy_extras.nodes_hooks as hook_nodes
import folder_paths
import pytest
import safetensors.torch
import torch

import nodes as core_nodes

from .graph import PROMPT, call
from .steering import assert_same, follow, lead

pytestmark = pytest.mark.usefixtures("as_node")

SIZE = (16, 16)


LAYERS = (
    "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1",
)


@pytest.fixture
def lora(graph, tmp_path, monkeypatch):
    """A LoRA file for self-attention keys and a text encoder, and the graph's model and CLIP with that LoRA."""
    keys = comfy.lora.model_lora_keys_unet(graph.model.model, {})
    keys = comfy.lora.model_lora_keys_clip(graph.clip.cond_stage_model, keys)
    parameters = {**graph.model.model.state_dict(), **graph.clip.cond_stage_model.state_dict()}
    weights = {}
    for layer in LAYERS:
        rows, columns = parameters[keys[layer]].shape
        weights[f"{layer}.lora_up.weight"] = torch.ones(rows, 1)
        weights[f"{layer}.lora_down.weight"] = torch.linspace(-1, 1, columns)[None] / 3
    safetensors.torch.save_file(weights, tmp_path / "test.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    return comfy.sd.load_lora_for_models(graph.model, graph.clip, weights, 1.0, 1.0)


def hooks(*keyframes, clip=0.0):
    """The LoRA as a hook, with a strength for each (percent, strength) keyframe."""
    made = call(hook_nodes.CreateHookLora, lora_name="test.safetensors", strength_model=1.0, strength_clip=clip)[0]
    frames = None
    for start, strength in keyframes:
        inputs = {"strength_mult": strength, "start_percent": start}
        frames = call(hook_nodes.CreateHookKeyframe, **inputs, **({"prev_hook_kf": frames} if frames else {}))[0]
    return call(hook_nodes.SetHookKeyframes, hooks=made, hook_kf=frames)[0]


def add_hook(conditioning, *keyframes):
    """The conditioning with the LoRA as a hook."""
    given = {"cond_NEW": conditioning, "set_cond_area": "default", "hooks": hooks(*keyframes)}
    return call(hook_nodes.ConditioningSetProperties, **given)[0]


def sample_steps(model, positive, negative, start, end, latent=None):
    """Sample some of four steps, from a latent or from noise."""
    return call(
        core_nodes.KSamplerAdvanced,
        **{"model": model, "positive": positive, "negative": negative, "noise_seed": 1, "steps": 4, "cfg": 5.0},
        **{"sampler_name": "euler", "scheduler": "normal", "start_at_step": start, "end_at_step": end},
        latent_image=latent or {"samples": torch.zeros(1, 4, *SIZE)},
        add_noise="disable" if latent else "enable",
        return_with_leftover_noise="disable" if end == 4 else "enable",
    )[0]


@pytest.mark.rounding
@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_a_lora_hook_equals_a_lora(graph, lora, cfg):
    given, positive, negative = graph.two_references(), graph.prompt(), graph.text()
    model = graph.apply(graph.model, *given)
    latent, expected = lead(
        graph.pack,
        graph.apply(lora[0], *given),
        lambda model: graph.sample(model, positive, negative, cfg=cfg),
    )
    texts = add_hook(positive), add_hook(negative)
    assert_same(follow(graph.pack, model, lambda model: graph.sample(model, *texts, cfg=cfg), expected)[1], expected)
    assert (latent - graph.sample(model, cfg=cfg)).abs().max() > 0.1


def test_a_hook_on_the_prompt_only(graph, lora):
    """Cond and uncond have different weights, and each attends to references computed with its own weights."""
    given, positive, negative = graph.two_references(), graph.prompt(), graph.text()
    model = graph.apply(graph.model, *given, schedule=graph.schedule())
    latent = graph.sample(model, add_hook(positive), negative, steps=1, cfg=3.0)
    cond = graph.sample(graph.apply(lora[0], *given, schedule=graph.schedule()), positive, negative, steps=1, cfg=1.0)
    quiet = graph.apply(graph.model, *given, schedule=graph.schedule(semantic_guidance=False))
    plain = graph.sample(graph.model, negative, negative, steps=1, cfg=1.0)
    unguided = graph.sample(quiet, add_hook(positive), negative, steps=1, cfg=3.0)
    torch.testing.assert_close(unguided, plain + 3.0 * (cond - plain), rtol=1e-4, atol=1e-2)
    assert torch.isfinite(latent).all() and (latent - unguided).abs().max() > 0.1


@pytest.mark.rounding
def test_a_scheduled_hook(graph, lora):
    """Off for the first two of four steps, then on: equal to two runs with the two models."""
    stage_1, given = graph.schedule(switch=1.0), graph.two_references()
    before, after = (graph.apply(model, *given, schedule=stage_1) for model in (graph.model, lora[0]))
    texts = graph.prompt(), graph.text()
    scheduled = [add_hook(text, (0.0, 0.0), (0.4, 1.0)) for text in texts]
    latent, expected = lead(graph.pack, before, lambda model: graph.sample(model, *scheduled, steps=4))
    half, first = follow(graph.pack, before, lambda model: sample_steps(model, *texts, 0, 2), expected[:2])
    _, second = follow(graph.pack, after, lambda model: sample_steps(model, *texts, 2, 4, half), expected[2:])
    assert_same(first + second, expected)
    assert (latent - graph.sample(before, *texts, steps=4)).abs().max() > 0.1


def test_scheduled_text_encoders(graph, lora):
    """A prompt and a caption that are each encoded twice, for the two parts of sampling."""
    stage_1, keyframes = graph.schedule(switch=1.0), hooks((0.0, 0.0), (0.4, 1.0), clip=1.0)
    inputs = {"apply_to_conds": False, "schedule_clip": True, "hooks": keyframes}
    scheduled, plain, changed = (
        (clip, graph.apply(graph.model, graph.reference(clip=clip, weight=3.0), schedule=stage_1))
        for clip in (call(hook_nodes.SetClipHooks, clip=graph.clip, **inputs)[0], graph.clip, lora[1])
    )
    prompts = [graph.run("MagicFacePrompt", clip=clip, text=PROMPT)[0] for clip, _ in (scheduled, plain, changed)]
    expected = call(core_nodes.CLIPTextEncode, clip=scheduled[0], text=PROMPT)[0]
    assert len(prompts[0]) == len(expected) == 2
    for (encoded, options), (text, text_options) in zip(prompts[0], expected, strict=True):
        assert torch.equal(encoded, text)
        assert options["clip_start_percent"] == text_options["clip_start_percent"]
        assert options["magicface_prompt"] == prompts[1][0][1]["magicface_prompt"]

    negative = graph.text()
    latent, expected = lead(graph.pack, scheduled[1], lambda model: graph.sample(model, prompts[0], negative, steps=4))
    half, first = follow(
        graph.pack, plain[1], lambda model: sample_steps(model, prompts[1], negative, 0, 2), expected[:2]
    )
    _, second = follow(
        graph.pack, changed[1], lambda model: sample_steps(model, prompts[2], negative, 2, 4, half), expected[2:]
    )
    assert_same(first + second, expected)
    # Both matter: if only one of them is scheduled, the pictures differ.
    for model, prompt in ((plain[1], prompts[2]), (changed[1], prompts[1])):
        assert (latent - sample_steps(model, prompt, negative, 2, 4, half)["samples"]).abs().max() > 0.01
