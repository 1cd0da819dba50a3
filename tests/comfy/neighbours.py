"""What a patched model meets in a graph: ComfyUI's own nodes, and stand-ins for what other packs do.

One row a neighbour. The tests of `test_neighbours` and the table in docs/neighbours.md are made from these rows.
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
from comfy.ldm.modules.attention import optimized_attention
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_model_merging import ModelMergeSimple
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

import nodes as core_nodes
from devtools.tiny_pack import tiny_model

from .graph import Graph, call, picture

Texts = tuple[Any, Any]


def unchanged(graph: Graph, model: Any) -> Any:
    """Of neighbours that only change prompts."""
    return model


@dataclass(frozen=True)
class Neighbour:
    """One neighbour.

    Attributes:
        name: in the table.
        model: what it makes of a model.
        texts: what it makes of the positive and the negative prompt.
        masked: whether the latent has a noise mask.
        sampling: what its KSampler's inputs are, other than usual.
        family: of the small model.
        once: whether it fails if it is on a model twice, with or without ours.
        changes: whether it changes the picture at all.
        refused: words of the error that a run with both ends in; none where they go together.
        note: for the table.
        missing: why this ComfyUI lacks it; empty where it does not.
    """

    name: str
    model: Callable[[Graph, Any], Any] = unchanged
    texts: Callable[[Graph, Any, Any], Texts] = lambda graph, positive, negative: (positive, negative)
    masked: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)
    family: str = "sdxl"
    once: bool = False
    changes: bool = True
    refused: tuple[str, ...] = ()
    note: str = ""
    missing: str = ""

    @property
    def patches_model(self) -> bool:
        """Whether it patches the model; otherwise it changes the prompts."""
        return self.model is not unchanged


def core(file: str, node: str, name: str, **row: Any) -> Neighbour:
    """A node of ComfyUI's that takes a model and gives one; `inputs` are its own."""
    inputs = row.pop("inputs", {})
    try:
        made = getattr(importlib.import_module(f"comfy_extras.nodes_{file}"), node)
    except (ImportError, AttributeError):
        return Neighbour(name, missing=f"this ComfyUI has no {node}")
    return Neighbour(name, model=lambda graph, model: call(made, model=model, **inputs)[0], **row)


# ---- ComfyUI's own ----

LORA_LAYER = "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"


def lora_weights(graph: Graph) -> dict[str, torch.Tensor]:
    """A LoRA on a self-attention that references pass through."""
    keys = comfy.lora.model_lora_keys_unet(graph.model.model, {})
    rows, columns = graph.model.model.state_dict()[keys[LORA_LAYER]].shape
    up, down = torch.ones(rows, 1), torch.linspace(-1, 1, columns)[None] / 3
    return {f"{LORA_LAYER}.lora_up.weight": up, f"{LORA_LAYER}.lora_down.weight": down}


def lora(graph: Graph, model: Any) -> Any:
    return comfy.sd.load_lora_for_models(model, None, lora_weights(graph), 0.5, 0)[0]


def hooked(graph: Graph, positive: Any, negative: Any, scheduled: bool = False) -> Texts:
    """Both prompts with the LoRA as a hook; scheduled: off at first, then on."""
    hooks = comfy.hooks.create_hook_lora(lora_weights(graph), 1.0, 0.0)
    if scheduled:
        frames = comfy.hooks.HookKeyframeGroup()
        for strength, start in ((0.0, 0.0), (1.0, 0.4)):
            frames.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
        hooks.set_keyframes_on_hooks(frames)
    return tuple(comfy.hooks.set_hooks_for_conditioning(text, hooks) for text in (positive, negative))  # type: ignore[return-value]


def controlnet(graph: Graph, positive: Any, negative: Any, start: float = 0.0, end: float = 1.0) -> Texts:
    """A small ControlNet of random weights on both prompts."""
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
    """A box with words of its own, by a small GLIGEN of random weights."""
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
    """A picture's embedding beside the prompt."""
    width = graph.model.model.noise_augmentor.time_embed.dim
    seen = comfy.clip_vision.Output()
    seen.image_embeds = torch.randn(1, width, generator=torch.Generator().manual_seed(5))
    inputs = {"clip_vision_output": seen, "strength": 1.0, "noise_augmentation": 0.1}
    return call(core_nodes.unCLIPConditioning, conditioning=positive, **inputs)[0], negative


def on_positive(node: str, **inputs: Any) -> Callable[[Graph, Any, Any], Texts]:
    """A node of ComfyUI's on the positive prompt."""

    def texts(graph: Graph, positive: Any, negative: Any) -> Texts:
        return call(getattr(core_nodes, node), conditioning=positive, **inputs)[0], negative

    return texts


def joined(node: str, **inputs: Any) -> Callable[[Graph, Any, Any], Texts]:
    """A node that makes one of the prompt and another text."""
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


def half(graph: Graph, positive: Any, negative: Any) -> Texts:
    """The prompt on the picture's left half, with a plain text for all of it."""
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1.0
    placed = call(
        core_nodes.ConditioningSetMask, conditioning=positive, mask=mask, strength=1.0, set_cond_area="default"
    )[0]
    return call(core_nodes.ConditioningCombine, conditioning_1=placed, conditioning_2=graph.text("a park"))[0], negative


def area(graph: Graph, positive: Any, negative: Any) -> Texts:
    """The same by an area."""
    box = {"width": 64, "height": 128, "x": 0, "y": 0, "strength": 1.0}
    placed = call(core_nodes.ConditioningSetArea, conditioning=positive, **box)[0]
    return call(core_nodes.ConditioningCombine, conditioning_1=placed, conditioning_2=graph.text("a park"))[0], negative


def merged(graph: Graph, model: Any) -> Any:
    """Half of another checkpoint."""
    other = tiny_model.load_unet("sdxl", 1, torch.float32)
    return call(ModelMergeSimple, model1=model, model2=other, ratio=0.5)[0]


def compiled(graph: Graph, model: Any, backend: Any = "eager") -> Any:
    """torch.compile as ComfyUI's node sets it, but of two transformers (all take minutes), with no C compiler."""
    model = model.clone()
    options = {"guard_filter_fn": skip_torch_compile_dict}
    keys = [f"diffusion_model.output_blocks.{number}.1.transformer_blocks.0" for number in (1, 4)]
    set_torch_compile_wrapper(model, backend=backend, options=options, keys=keys)
    return model


# ---- stand-ins for other packs ----

BLOCKS = (("output", 1, 0), ("output", 4, 0))


def last_writer(kind: str, factor: float) -> Callable[[Graph, Any], Any]:
    """The usual attention times a factor, in the one slot a block has."""

    def times(q, k, v, extra):
        return factor * optimized_attention(q, k, v, extra["n_heads"], transformer_options=extra)

    def patched(graph: Graph, model: Any) -> Any:
        model = model.clone()
        for block in BLOCKS:
            getattr(model, f"set_model_{kind}_replace")(times, *block)
        return model

    return patched


class Added:
    """As image-prompt adapters patch: one object a block, to which later ones add themselves."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, value: float) -> None:
        self.values.append(value)

    def __call__(self, q, k, v, extra):
        out = optimized_attention(q, k, v, extra["n_heads"], transformer_options=extra)
        for value in self.values:
            out = out + value * v.mean(1, keepdim=True)
        return out


def adds_itself(graph: Graph, model: Any) -> Any:
    """Puts its object in the slot, or calls `.add` on what it finds there."""
    model = model.clone()
    to = model.model_options["transformer_options"] = dict(model.model_options["transformer_options"])
    to["patches_replace"] = {name: dict(slots) for name, slots in to.get("patches_replace", {}).items()}
    slots = to["patches_replace"].setdefault("attn2", {})
    for block in BLOCKS:
        if block not in slots:
            slots[block] = Added()
        slots[block].add(0.3)
    return model


def longer_keys(graph: Graph, model: Any) -> Any:
    """More keys for every self-attention: the own ones again, turned."""
    model = model.clone()
    model.set_model_attn1_patch(lambda q, k, v, extra: (q, torch.cat([k, k.flip(1)], 1), torch.cat([v, 2 * v], 1)))
    return model


def override(graph: Graph, model: Any) -> Any:
    """Attention in another backend, as packs set it for a whole model; here with a temperature."""
    model = model.clone()
    to = model.model_options["transformer_options"] = dict(model.model_options["transformer_options"])
    to["optimized_attention_override"] = lambda attention, q, *args, **kwargs: attention(0.9 * q, *args, **kwargs)
    return model


def around_the_unet(graph: Graph, model: Any) -> Any:
    """A function around every UNet call, of which a model has one."""
    model = model.clone()
    model.set_model_unet_function_wrapper(
        lambda apply, args: 0.95 * apply(args["input"], args["timestep"], **args["c"])
    )
    return model


class ForTheWholeBlock:
    """An object in the slot of a block, for all of its depths."""

    def __call__(self, q, k, v, extra):
        return 0.8 * optimized_attention(q, k, v, extra["n_heads"], transformer_options=extra)


def by_two_names(graph: Graph, model: Any) -> Any:
    """The slot of a block by its stage and number alone."""
    model = model.clone()
    for kind in ("attn1", "attn2"):
        model.set_model_patch_replace(ForTheWholeBlock(), kind, "output", 1)
    return model


def fewer_queries(graph: Graph, model: Any) -> Any:
    """Every second query only, put back behind the attention."""
    model = model.clone()
    model.set_model_attn1_patch(half_of_the_tokens)
    model.set_model_attn1_output_patch(lambda out, extra: out.repeat_interleave(2, dim=1))
    return model


def half_of_the_keys(q, k, v, extra):
    return q, k[:, ::2], v[:, ::2]


def fewer_keys(graph: Graph, model: Any) -> Any:
    """Every second key and value only, as packs that spare time do."""
    model = model.clone()
    model.set_model_attn1_patch(half_of_the_keys)
    return model


def half_of_the_tokens(q, k, v, extra):
    return q[:, ::2], k[:, ::2], v[:, ::2]


CACHE = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0}

NEIGHBOURS = (
    Neighbour("LoRA", lora, note="references see it too"),
    Neighbour("model merging", merged, note="references see it too"),
    Neighbour("ControlNet", texts=controlnet, note="steers the picture only, not the references"),
    Neighbour("ControlNet on part of the steps", texts=lambda g, p, n: controlnet(g, p, n, 0.2, 0.6)),
    core("pag", "PerturbedAttentionGuidance", "PAG"),
    core("sag", "SelfAttentionGuidance", "SAG", once=True),
    core("nag", "NAGuidance", "NAG"),
    core("freelunch", "FreeU", "FreeU", note="on the picture only, not on the references"),
    core("freelunch", "FreeU_V2", "FreeU v2"),
    core(
        "slg",
        "SkipLayerGuidanceDiT",
        "SLG",
        inputs={"start_percent": 0.0, "end_percent": 1.0},
        changes=False,
        note="ComfyUI's acts on transformers only, not on UNets",
    ),
    core("model_advanced", "RescaleCFG", "RescaleCFG"),
    core("tcfg", "TCFG", "TCFG"),
    core("mahiro", "Mahiro", "Mahiro"),
    core("fresca", "FreSca", "FreSca", inputs={"scale_low": 0.7, "freq_cutoff": 4}),
    core("apg", "APG", "APG"),
    core("eps", "EpsilonScaling", "epsilon scaling"),
    core("cfg", "CFGZeroStar", "CFG-Zero*"),
    core("cfg", "CFGNorm", "CFG norm"),
    core("attention_multiply", "UNetSelfAttentionMultiply", "self-attention multiply", inputs={"q": 1.2, "v": 0.9}),
    core("attention_multiply", "UNetCrossAttentionMultiply", "cross-attention multiply", inputs={"k": 1.3, "out": 0.9}),
    core(
        "model_downscale",
        "PatchModelAddDownscale",
        "Kohya deep shrink",
        inputs={"downscale_method": "bicubic", "upscale_method": "bicubic"},
    ),
    core(
        "model_advanced",
        "ModelSamplingDiscrete",
        "v-prediction, zero terminal SNR",
        inputs={"sampling": "v_prediction", "zsnr": True},
    ),
    core("easycache", "EasyCacheNode", "EasyCache", inputs=CACHE, sampling={"steps": 8}),
    core("easycache", "LazyCacheNode", "LazyCache", inputs=CACHE, sampling={"steps": 8}),
    core("differential_diffusion", "DifferentialDiffusion", "Differential Diffusion", masked=True),
    core(
        "hypertile",
        "HyperTile",
        "HyperTile",
        inputs={"tile_size": 32, "max_depth": 1},
        refused=("block output.3.0", "8x8 grid", "nodes_hypertile"),
        note="changes the tokens",
    ),
    core(
        "tomesd",
        "TomePatchModel",
        "token merging",
        inputs={"ratio": 0.5},
        family="sd1",
        refused=("block output.9.0", "16x16 grid", "nodes_tomesd"),
        note="changes the tokens",
    ),
    Neighbour("GLIGEN", texts=gligen, family="sd1"),
    Neighbour("LoRA as a hook", texts=hooked),
    Neighbour("scheduled LoRA", texts=lambda g, p, n: hooked(g, p, n, scheduled=True), sampling={"steps": 5}),
    Neighbour("Conditioning (Set Area)", texts=area),
    Neighbour("Conditioning (Set Mask)", texts=half),
    Neighbour("Conditioning (Combine)", texts=joined("ConditioningCombine")),
    Neighbour("Conditioning (Concat)", texts=joined("ConditioningConcat")),
    Neighbour("a prompt encoded in parts (BREAK)", texts=from_parts, note="through MagicFace Prompt's conditioning"),
    Neighbour("Conditioning (Average)", texts=joined("ConditioningAverage", conditioning_to_strength=0.7)),
    Neighbour("ConditioningSetTimestepRange", texts=on_positive("ConditioningSetTimestepRange", start=0.0, end=0.7)),
    Neighbour("unCLIP", texts=unclip, family="unclip"),
    Neighbour(
        "torch.compile",
        compiled,
        changes=False,
        note="changes no picture; put aside for the run",
    ),
    Neighbour("attn1 replaced by the last writer", last_writer("attn1", 0.5)),
    Neighbour("attn2 replaced by the last writer", last_writer("attn2", 0.5)),
    Neighbour("an object that is added to", adds_itself),
    Neighbour("an attn1 patch that lengthens keys", longer_keys),
    Neighbour("an attention override", override, note="calls with weights on tokens pass by it"),
    Neighbour("a function around the UNet", around_the_unet),
    Neighbour("an object for a whole block", by_two_names),
    Neighbour(
        "an attn1 patch that drops keys",
        fewer_keys,
        refused=("keys instead of", "half_of_the_keys"),
        note="changes the tokens",
    ),
    Neighbour(
        "an attn1 patch that drops tokens",
        fewer_queries,
        refused=("block", "half_of_the_tokens"),
        note="changes the tokens",
    ),
)


def named(name: str) -> Neighbour:
    """The row of this name."""
    return next(row for row in NEIGHBOURS if row.name == name)
