"""What is combined with a patched model in a graph: ComfyUI's own nodes, and the stand-ins for other packs.

One row per neighbour. The tests of `test_neighbours` and the table in docs/neighbours.md are made from these rows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.gligen
import comfy.hooks
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_model_merging import ModelMergeSimple
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

import nodes as core_nodes
from devtools.tiny_pack import tiny_model

from . import stand_ins
from .graph import Graph, call, picture

Texts = tuple[Any, Any]


def leave_model(graph: Graph, model: Any) -> Any:
    """The model as it is, for neighbours that only change prompts."""
    return model


@dataclass(frozen=True)
class Neighbour:
    """One neighbour.

    Attributes:
        name: its name in the table.
        model: patches a model.
        texts: changes the positive and the negative prompt.
        masked: whether the latent has a noise mask.
        batch: how many images the latent has.
        sampling: KSampler inputs that differ from the usual ones.
        family: the family of the small model.
        once: whether it fails when it patches a model twice, with or without MagicFace.
        changes: whether it changes the picture.
        refused: words of the error that ends a run with both; empty if they work together.
        refused_after: words of the error that ends a run, at any weight, if it comes after MagicFace Apply; empty if
            the order does not matter.
        finding: words of a finding that a run with both has; empty if it has none.
        note: its note in the table.
        missing: why this ComfyUI does not have it; empty if it does.
    """

    name: str
    model: Callable[[Graph, Any], Any] = leave_model
    texts: Callable[[Graph, Any, Any], Texts] = lambda graph, positive, negative: (positive, negative)
    masked: bool = False
    batch: int = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)
    family: str = "sdxl"
    once: bool = False
    changes: bool = True
    refused: tuple[str, ...] = ()
    refused_after: tuple[str, ...] = ()
    finding: str = ""
    note: str = ""
    missing: str = ""

    @property
    def patches_model(self) -> bool:
        """Whether it patches the model; otherwise it changes the prompts."""
        return self.model is not leave_model

    @property
    def outcome(self) -> str:
        """The outcome of a run with both, for the table."""
        if self.refused:
            return "refused"
        return "together; refused after MagicFace Apply" if self.refused_after else "together"


def core_node(file: str, node: str, name: str, **row: Any) -> Neighbour:
    """A row for a ComfyUI node that patches a model; `inputs` are the node's own inputs."""
    inputs = row.pop("inputs", {})
    try:
        made = getattr(importlib.import_module(f"comfy_extras.nodes_{file}"), node)
    except (ImportError, AttributeError):
        return Neighbour(name, missing=f"this ComfyUI has no {node}")
    return Neighbour(name, model=lambda graph, model: call(made, model=model, **inputs)[0], **row)


# ---- ComfyUI's own ----

LORA_LAYER = "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"


def lora_weights(graph: Graph) -> dict[str, torch.Tensor]:
    """A LoRA on a self-attention layer that reference passes run through."""
    keys = comfy.lora.model_lora_keys_unet(graph.model.model, {})
    rows, columns = graph.model.model.state_dict()[keys[LORA_LAYER]].shape
    up, down = torch.ones(rows, 1), torch.linspace(-1, 1, columns)[None] / 3
    return {f"{LORA_LAYER}.lora_up.weight": up, f"{LORA_LAYER}.lora_down.weight": down}


def lora(graph: Graph, model: Any) -> Any:
    return comfy.sd.load_lora_for_models(model, None, lora_weights(graph), 0.5, 0)[0]


def with_lora_hook(graph: Graph, positive: Any, negative: Any, scheduled: bool = False) -> Texts:
    """Both prompts with the LoRA as a hook; if `scheduled`, off at first, then on."""
    hooks = comfy.hooks.create_hook_lora(lora_weights(graph), 1.0, 0.0)
    if scheduled:
        frames = comfy.hooks.HookKeyframeGroup()
        for strength, start in ((0.0, 0.0), (1.0, 0.4)):
            frames.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
        hooks.set_keyframes_on_hooks(frames)
    return tuple(comfy.hooks.set_hooks_for_conditioning(text, hooks) for text in (positive, negative))  # type: ignore[return-value]


def controlnet(graph: Graph, positive: Any, negative: Any, start: float = 0.0, end: float = 1.0) -> Texts:
    """A small ControlNet with random weights on both prompts."""
    config = graph.model.model.model_config.unet_config
    known = {
        name: value for name, value in config.items() if name not in ("out_channels", "disable_unet_model_creation")
    }
    known["transformer_depth"] = list(known["transformer_depth"])
    device = graph.model.load_device
    net = comfy.cldm.cldm.ControlNet(**known, hint_channels=3, device=device, operations=comfy.ops.disable_weight_init)
    generator = torch.Generator().manual_seed(3)
    for weight in net.parameters():
        weight.requires_grad_(False)
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    made = comfy.controlnet.ControlNet(net, load_device=device)
    inputs = {"image": picture(9), "strength": 1.0, "start_percent": start, "end_percent": end}
    positive, negative = call(
        core_nodes.ControlNetApplyAdvanced, positive=positive, negative=negative, control_net=made, **inputs
    )
    return positive, negative


def gligen(graph: Graph, positive: Any, negative: Any) -> Texts:
    """A box with its own words, from a small GLIGEN model with random weights."""
    unet = graph.model.model.diffusion_model
    widths = [block.norm1.weight.shape[0] for block in unet.modules() if hasattr(block, "attn1")]
    text = graph.clip.encode_from_tokens(graph.clip.tokenize("a"), return_pooled="unprojected")[1].shape[-1]
    generator = torch.Generator().manual_seed(4)
    modules = [comfy.gligen.GatedSelfAttentionDense(width, text, 2, width // 2) for width in widths]
    net = comfy.gligen.Gligen(modules, comfy.gligen.PositionNet(text, text), text)
    for weight in net.parameters():
        weight.requires_grad_(False)
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1 + (0.5 if weight.ndim == 0 else 0.0))
    device = comfy.model_management.get_torch_device()
    patcher = comfy.model_patcher.ModelPatcher(net, load_device=device, offload_device=torch.device("cpu"))
    inputs = {"text": "a dog", "width": 64, "height": 64, "x": 0, "y": 32}
    boxed = call(
        core_nodes.GLIGENTextBoxApply, conditioning_to=positive, clip=graph.clip, gligen_textbox_model=patcher, **inputs
    )[0]
    return boxed, negative


def unclip(graph: Graph, positive: Any, negative: Any) -> Texts:
    """A picture's embedding added to the prompt."""
    width = graph.model.model.noise_augmentor.time_embed.dim
    seen = comfy.clip_vision.Output()
    seen.image_embeds = torch.randn(1, width, generator=torch.Generator().manual_seed(5))
    inputs = {"clip_vision_output": seen, "strength": 1.0, "noise_augmentation": 0.1}
    return call(core_nodes.unCLIPConditioning, conditioning=positive, **inputs)[0], negative


def on_positive(node: str, **inputs: Any) -> Callable[[Graph, Any, Any], Texts]:
    """A ComfyUI node applied to the positive prompt."""

    def texts(graph: Graph, positive: Any, negative: Any) -> Texts:
        return call(getattr(core_nodes, node), conditioning=positive, **inputs)[0], negative

    return texts


def merge_prompts(node: str, **inputs: Any) -> Callable[[Graph, Any, Any], Texts]:
    """A ComfyUI node that merges the positive prompt with another text."""
    first, second = (
        ("conditioning_1", "conditioning_2") if node.endswith("Combine") else ("conditioning_to", "conditioning_from")
    )

    def texts(graph: Graph, positive: Any, negative: Any) -> Texts:
        both = {first: positive, second: graph.text("a dog in a park")}
        return call(getattr(core_nodes, node), **both, **inputs)[0], negative

    return texts


def from_parts(graph: Graph, positive: Any, negative: Any) -> Texts:
    """The usual prompt as an encoder that knows BREAK makes it, passed through MagicFace Prompt."""
    whole = graph.text("a boy wearing a hat")
    whole = call(core_nodes.ConditioningConcat, conditioning_to=whole, conditioning_from=graph.text("and a scarf"))[0]
    return graph.prompt("a boy wearing a hat BREAK and a scarf", conditioning=whole), negative


def left_half_mask(graph: Graph, positive: Any, negative: Any) -> Texts:
    """The prompt masked to the left half of the picture, combined with a plain text for the whole picture."""
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1.0
    placed = call(
        core_nodes.ConditioningSetMask, conditioning=positive, mask=mask, strength=1.0, set_cond_area="default"
    )[0]
    return call(core_nodes.ConditioningCombine, conditioning_1=placed, conditioning_2=graph.text("a park"))[0], negative


def left_half_area(graph: Graph, positive: Any, negative: Any) -> Texts:
    """The prompt in an area that is the left half of the picture, combined with a plain text for the whole picture."""
    box = {"width": 64, "height": 128, "x": 0, "y": 0, "strength": 1.0}
    placed = call(core_nodes.ConditioningSetArea, conditioning=positive, **box)[0]
    return call(core_nodes.ConditioningCombine, conditioning_1=placed, conditioning_2=graph.text("a park"))[0], negative


def merge_models(graph: Graph, model: Any) -> Any:
    """The model merged half and half with another checkpoint."""
    other = tiny_model.load_unet("sdxl", 1, torch.float32)
    return call(ModelMergeSimple, model1=model, model2=other, ratio=0.5)[0]


def compile_blocks(graph: Graph, model: Any, backend: Any = "eager") -> Any:
    """torch.compile as ComfyUI's node sets it, without a C compiler and for two blocks only (all take minutes)."""
    model = model.clone()
    options = {"guard_filter_fn": skip_torch_compile_dict}
    keys = [f"diffusion_model.output_blocks.{number}.1.transformer_blocks.0" for number in (1, 4)]
    set_torch_compile_wrapper(model, backend=backend, options=options, keys=keys)
    return model


CACHE = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0}
WINDOWS = {
    "context_schedule": "standard_static",
    "context_length": 2,
    "context_overlap": 1,
    "dim": 0,
    "freenoise": True,
}
CHANGED_TOKENS = ("HyperTile and token merging", "remove it")

# ---- the rows ----

STAND_INS = (
    Neighbour("attn1 replaced by the last writer", stand_ins.last_writer("attn1", 0.5)),
    Neighbour("attn2 replaced by the last writer", stand_ins.last_writer("attn2", 0.5)),
    Neighbour("an object that is added to", stand_ins.add_to_slot),
    Neighbour("an attn1 patch that lengthens keys", stand_ins.longer_keys),
    Neighbour("an attention override", stand_ins.override, note="bypassed where references are injected"),
    Neighbour("a function around the UNet", stand_ins.around_the_unet),
    Neighbour("an object for a whole block", stand_ins.patch_without_depth),
    Neighbour(
        "an attn1 patch that drops keys",
        stand_ins.fewer_keys,
        refused=("MagicFace: block ", "keys instead of", "half_of_the_keys", *CHANGED_TOKENS),
        note="changes the number of keys",
    ),
    Neighbour(
        "an attn1 patch that drops tokens",
        stand_ins.fewer_queries,
        refused=("MagicFace: block ", "half_of_the_tokens", *CHANGED_TOKENS),
        note="changes the number of tokens",
    ),
    Neighbour(
        "windows over a batch, with copied conds",
        stand_ins.windows_of_three,
        batch=3,
        once=True,
        note="each image has its own regions",
    ),
    Neighbour(
        "reference-only, by forwards of its own",
        stand_ins.reference_only,
        once=True,
        note="the tokens that it adds are attended to beside those of MagicFace's references",
    ),
    Neighbour(
        "guidance by tiles",
        stand_ins.guide_by_tiles,
        finding="Their place is not known",
        note="within the tiles, all queries attend to all references",
    ),
    Neighbour(
        "a step without guidance",
        stand_ins.skip_cfg_once,
        finding="semantic guidance was off in 1 of 3 evaluations",
        note="no semantic guidance in that step",
    ),
    Neighbour(
        "a wrapper in place of all others",
        stand_ins.replace_wrappers,
        once=True,
        refused_after=("MagicFaceApply: model: ", "removed MagicFace's sampling wrapper", "put MagicFace Apply after"),
        note="put MagicFace Apply after it",
    ),
    Neighbour(
        "norms that two images share",
        stand_ins.shared_norms,
        batch=2,
        refused=("the UNet call for the references failed", "norm_of_two_prompts", "[2, 2, ", "restart ComfyUI"),
        note="cannot take the rows of the references",
    ),
    Neighbour(
        "regional prompting by attention",
        stand_ins.attention_couple,
        refused=("MagicFace: block ", "3 rows instead of 2", "attention_couple.repeat", "Conditioning (Set Mask)"),
        note="use Conditioning (Set Mask) and (Combine)",
    ),
    Neighbour(
        "negative weights of words, as keys apart from values",
        stand_ins.separate_keys,
        stand_ins.interleaved,
        refused=(
            "MagicFace: block ",
            "x 77 keys of the text instead of",
            "x 154",
            "keys_and_values",
            "negative weights of words",
        ),
        note="the text has other numbers of keys and of tokens",
    ),
    Neighbour(
        "a prompt language that exchanges words",
        texts=stand_ins.exchanged_words,
        refused=("MagicFacePrompt: conditioning", "other words", "'hat'", "prompt language"),
        note="the words are not where the text has them",
    ),
    Neighbour(
        "a prompt language that takes marks out",
        texts=stand_ins.marked_words,
        note="through MagicFace Prompt's conditioning",
    ),
)

NEIGHBOURS = (
    Neighbour("LoRA", lora, note="applies to reference passes too"),
    Neighbour("model merging", merge_models, note="applies to reference passes too"),
    Neighbour("ControlNet", texts=controlnet, note="applies to the picture only, not to reference passes"),
    Neighbour("ControlNet on part of the steps", texts=lambda g, p, n: controlnet(g, p, n, 0.2, 0.6)),
    core_node("pag", "PerturbedAttentionGuidance", "PAG"),
    core_node("sag", "SelfAttentionGuidance", "SAG", once=True),
    core_node("nag", "NAGuidance", "NAG"),
    core_node("freelunch", "FreeU", "FreeU", note="applies to the picture only, not to reference passes"),
    core_node("freelunch", "FreeU_V2", "FreeU v2"),
    core_node(
        "slg",
        "SkipLayerGuidanceDiT",
        "SLG",
        inputs={"start_percent": 0.0, "end_percent": 1.0},
        changes=False,
        note="ComfyUI's node has no effect on UNets, only on diffusion transformers",
    ),
    core_node("model_advanced", "RescaleCFG", "RescaleCFG"),
    core_node("tcfg", "TCFG", "TCFG"),
    core_node("mahiro", "Mahiro", "Mahiro"),
    core_node("fresca", "FreSca", "FreSca", inputs={"scale_low": 0.7, "freq_cutoff": 4}),
    core_node("apg", "APG", "APG"),
    core_node("eps", "EpsilonScaling", "epsilon scaling"),
    core_node("cfg", "CFGZeroStar", "CFG-Zero*"),
    core_node("cfg", "CFGNorm", "CFG norm"),
    core_node(
        "attention_multiply", "UNetSelfAttentionMultiply", "self-attention multiply", inputs={"q": 1.2, "v": 0.9}
    ),
    core_node(
        "attention_multiply", "UNetCrossAttentionMultiply", "cross-attention multiply", inputs={"k": 1.3, "out": 0.9}
    ),
    core_node(
        "model_downscale",
        "PatchModelAddDownscale",
        "Kohya deep shrink",
        inputs={"downscale_method": "bicubic", "upscale_method": "bicubic"},
    ),
    core_node(
        "model_advanced",
        "ModelSamplingDiscrete",
        "v-prediction, zero terminal SNR",
        inputs={"sampling": "v_prediction", "zsnr": True},
    ),
    core_node("easycache", "EasyCacheNode", "EasyCache", inputs=CACHE, sampling={"steps": 8}),
    core_node("easycache", "LazyCacheNode", "LazyCache", inputs=CACHE, sampling={"steps": 8}),
    core_node("differential_diffusion", "DifferentialDiffusion", "Differential Diffusion", masked=True),
    core_node(
        "hypertile",
        "HyperTile",
        "HyperTile",
        inputs={"tile_size": 32, "max_depth": 1},
        refused=("MagicFace: block output.3.0", "8x8 grid", "nodes_hypertile", *CHANGED_TOKENS),
        note="changes the number of tokens",
    ),
    core_node(
        "tomesd",
        "TomePatchModel",
        "token merging",
        inputs={"ratio": 0.5},
        family="sd1",
        refused=("MagicFace: block output.9.0", "16x16 grid", "nodes_tomesd", *CHANGED_TOKENS),
        note="changes the number of tokens",
    ),
    Neighbour("GLIGEN", texts=gligen, family="sd1"),
    Neighbour("LoRA as a hook", texts=with_lora_hook),
    Neighbour("scheduled LoRA", texts=lambda g, p, n: with_lora_hook(g, p, n, scheduled=True), sampling={"steps": 5}),
    Neighbour("Conditioning (Set Area)", texts=left_half_area),
    Neighbour("Conditioning (Set Mask)", texts=left_half_mask),
    Neighbour("Conditioning (Combine)", texts=merge_prompts("ConditioningCombine")),
    Neighbour("Conditioning (Concat)", texts=merge_prompts("ConditioningConcat")),
    Neighbour("a prompt encoded in parts (BREAK)", texts=from_parts, note="through MagicFace Prompt's conditioning"),
    Neighbour("Conditioning (Average)", texts=merge_prompts("ConditioningAverage", conditioning_to_strength=0.7)),
    Neighbour("ConditioningSetTimestepRange", texts=on_positive("ConditioningSetTimestepRange", start=0.0, end=0.7)),
    Neighbour("unCLIP", texts=unclip, family="unclip"),
    Neighbour(
        "torch.compile",
        compile_blocks,
        changes=False,
        note="does not change the picture; switched off during the run",
    ),
    core_node(
        "context_windows",
        "ContextWindowsManualNode",
        "context windows over a batch",
        inputs=WINDOWS,
        batch=4,
        note="each image has its own regions",
    ),
    *STAND_INS,
)


def neighbour_named(name: str) -> Neighbour:
    """The row with this name."""
    return next(row for row in NEIGHBOURS if row.name == name)
