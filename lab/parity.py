"""Parity with the authors: recorded runs of their program, repeated through the product's own wrappers.

A file holds a small UNet (diffusers key names under ``unet.``), encodings, token positions, noises and everything
that the authors' program made of them. Only noise, encodings and positions are taken from it; sampling, stages,
references, segmentation and guidance are the pack's.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

MOST_LATENT_ERROR = 1e-3


@dataclass(frozen=True)
class Step:
    """How one step compares.

    Attributes:
        latent_error: largest absolute difference of the latents after it, as diffusers scales them.
        equal_masks: share of pixels with the same token, after the foreground cut.
        equal_foreground: share of pixels with the same foreground.
    """

    latent_error: float
    equal_masks: float
    equal_foreground: float

    @property
    def holds(self) -> bool:
        """Whether the step repeats the authors'."""
        return self.latent_error <= MOST_LATENT_ERROR and self.equal_masks == 1.0 and self.equal_foreground == 1.0


class RecordedNoise:
    """The references' noise as the file has it; reference i is called "i|..."."""

    def __init__(self, noises: Tensor, sigmas: Tensor) -> None:
        self._noises, self._sigmas = noises, sigmas

    def __call__(self, name: str, sigma: float, shape: tuple[int, ...]) -> Tensor:
        step = int((self._sigmas - sigma).abs().argmin())
        return self._noises[step, int(name.split("|")[0])].reshape(shape)


def main(files: list[str]) -> int:
    """Print each file's comparison; 1 if any differs."""
    differs = False
    for file in files:
        try:
            steps = list(compare(Path(file)))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            print(f"dev.py parity: {file} is no recorded run: {error}", file=sys.stderr)
            differs = True
            continue
        print(f"{Path(file).name}\n  step  largest latent error  equal mask pixels  equal foreground")
        for number, step in enumerate(steps):
            print(
                f"  {number:4d}  {step.latent_error:20.2e}  {step.equal_masks:17.4%}  {step.equal_foreground:16.4%}"
                f"{'' if step.holds else '  <- differs'}"
            )
            differs |= not step.holds
    print("not all runs agree" if differs else "the runs agree")
    return int(differs)


def compare(file: Path) -> Iterator[Step]:
    """Repeat a recorded run and compare it step by step."""
    import comfy.k_diffusion.sampling
    import comfy.samplers
    from comfy.patcher_extension import WrappersMP

    from devtools.incore import load_pack

    pack = load_pack()
    with safe_open(file, "pt") as recorded:
        tensors, meta = {name: recorded.get_tensor(name) for name in recorded.keys()}, recorded.metadata()  # noqa: SIM118
    model = _unet_model(tensors, json.loads(meta["unet_config"]))
    sigmas = model.model.model_sampling.sigmas[tensors["timesteps"]].float()
    references = _references(pack, tensors, meta, model)
    method = pack.sampling.patch.bind(
        model, references, _schedule(pack, model, tensors, meta), RecordedNoise(tensors["noises"], sigmas)
    )
    maps: list[tuple[Tensor, Tensor]] = []

    def watch(run: Any, *_: Any) -> None:
        assert run.regions is not None
        maps.append((run.regions.regions.tokens, run.regions.regions.foreground))

    latents: list[Tensor] = []
    steps = torch.cat((sigmas, sigmas[-1:]))
    first = tensors["z_T"] * torch.sqrt(1 + steps[0] ** 2)

    def from_recorded_start(model_k: Any, _noise: Tensor, sigmas: Tensor, **kwargs: Any) -> Tensor:
        return comfy.k_diffusion.sampling.sample_euler(model_k, first.to(sigmas.device), sigmas, **kwargs)

    def each_step(step: int, x0: Tensor, x: Tensor, _: int) -> None:
        after = x0 + (x - x0) * steps[step + 1] / steps[step]
        latents.append((after / torch.sqrt(1 + steps[step + 1] ** 2)).cpu())

    patched = model.clone()
    patched.add_wrapper_with_key(
        WrappersMP.OUTER_SAMPLE,
        pack.sampling.method.KEY,
        pack.sampling.patch.sampling_with(method, lambda model: watch),
    )
    guider = comfy.samplers.CFGGuider(patched)
    tag = pack.sampling.conditioning.prompt.PromptTokens("", (None, *range(1, tensors["cond"].shape[1])), (0,))
    guider.set_conds([[tensors["cond"][:1], {pack.sampling.conditioning.prompt.TAG: tag}]], [[tensors["uncond"], {}]])
    guider.set_cfg(float(meta["guidance"]))
    sampler = comfy.samplers.KSAMPLER(from_recorded_start)
    guider.sample(torch.zeros_like(first), torch.zeros_like(first), sampler, steps, callback=each_step, seed=0)

    for number, (latent, (tokens, foreground)) in enumerate(zip(latents, maps, strict=True)):
        masks = tensors["ca_masks"][number]
        ours = torch.nn.functional.one_hot(tokens.cpu() + 1, masks.shape[1] + 1)[..., 1:].movedim(-1, 1)
        fore = foreground.cpu() == tensors["fore_masks"][number][:, 0].bool()
        same = (ours == masks).all(dim=1)
        error = (latent - tensors["latents"][number]).abs().max()
        yield Step(float(error), float(same.float().mean()), float(fore.float().mean()))


def _unet_model(tensors: dict[str, Tensor], config: dict[str, Any]) -> Any:
    """The recorded UNet as ComfyUI's own model, in a ModelPatcher."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    unet_config = _unet_config(config)
    settings = comfy.supported_models.SD20(dict(unet_config))
    settings.unet_config = {**unet_config, "dtype": torch.float32}
    settings.manual_cast_dtype = None
    settings.optimizations = {"fp8": False}
    device = comfy.model_management.get_torch_device()
    model = settings.get_model({}, "", device=None)

    names = comfy.utils.unet_to_diffusers(unet_config)
    state = {names[name]: tensors[f"unet.{name}"] for name in names if f"unet.{name}" in tensors}
    recorded = sum(name.startswith("unet.") for name in tensors)
    missing, _ = model.diffusion_model.load_state_dict(state, strict=False)
    if missing or len(state) != recorded:
        raise ValueError(f"the file's UNet does not fit its config: missing {missing}, {len(state)} of {recorded} used")
    alphas = tensors["alphas_cumprod"].double()
    model.model_sampling.set_sigmas(torch.sqrt((1 - alphas) / alphas).float())
    return comfy.model_patcher.ModelPatcher(model.to(device), device, torch.device("cpu"))


def _unet_config(config: dict[str, Any]) -> dict[str, Any]:
    """A diffusers UNet config in ComfyUI's terms."""
    channels = config["block_out_channels"]
    heads, depths = (
        _each(config.get(name, 1), channels) for name in ("attention_head_dim", "transformer_layers_per_block")
    )
    depth = [d * kind.startswith("CrossAttn") for d, kind in zip(depths, config["down_block_types"], strict=True)]
    layers = config["layers_per_block"]
    # What diffusers calls the heads' size is their number: SD 2 keeps their size, SD 1 their number.
    sizes = {width // count for width, count in zip(channels, heads, strict=True)}
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [c // channels[0] for c in channels],
        "num_res_blocks": [layers] * len(channels),
        "transformer_depth": [d for d in depth for _ in range(layers)],
        "transformer_depth_output": [d for d in depth for _ in range(layers + 1)],
        "transformer_depth_middle": depths[-1],
        "num_heads": -1 if len(sizes) == 1 else heads[0],
        "num_head_channels": sizes.pop() if len(sizes) == 1 else -1,
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": config.get("use_linear_projection", False),
        "use_spatial_transformer": True,
        "legacy": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }


def _each(value: Any, levels: list[int]) -> list[int]:
    return value if isinstance(value, list) else [value] * len(levels)


def _references(pack: Any, tensors: dict[str, Tensor], meta: dict[str, str], model: Any) -> tuple[Any, ...]:
    masks = (tensors["ref_masks"] > 0).float()
    references = []
    for i, (at, weight) in enumerate(zip(json.loads(meta["ref_index"]), json.loads(meta["mask_weights"]), strict=True)):
        references.append(
            pack.sampling.method.Reference(
                concept=str(i),
                concept_tokens=tuple(at) if isinstance(at, list) else (at,),
                caption=f"reference {i}",
                conditioning=[[tensors["cond"][1 + i : 2 + i], {}]],
                latents=model.model.process_latent_out(tensors["ref_latents"][i : i + 1]),
                masks=masks[i],
                weight=weight,
                weight_injection=weight,
                resize="nearest",
            )
        )
    return tuple(references)


def _schedule(pack: Any, model: Any, tensors: dict[str, Tensor], meta: dict[str, str]) -> Any:
    """The recorded settings: the switch lies half-way between the last step of stage 1 and the first of stage 2."""
    last, timesteps = int(meta["inject_step"]), tensors["timesteps"].tolist()
    if last + 1 < len(timesteps):
        highest = len(model.model.model_sampling.sigmas) - 1
        switch = 1 - (timesteps[last] + timesteps[last + 1]) / 2 / highest
    else:
        switch = 1.0
    layout = pack.sampling.families.unet.layout_of(model.model.diffusion_model)
    spans = [[int(number) for number in part.split("-")] for part in meta["layers"].split(",")]
    chosen = [block for span in spans for block in layout[span[0] : span[-1] + 1]]
    return pack.sampling.method.Schedule(
        switch=math.floor(switch * 1e6) / 1e6,
        injection=",".join(str(block) for block in chosen),
        suppression=float(meta["ca_scale"]),
    )
