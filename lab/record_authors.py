"""Record a run of the authors' program (arXiv 2408.07433) in the format of docs/parity.md.

It runs beside a checkout of their program, and needs nothing from this pack: only torch, safetensors and what their
program needs. You supply the program and a function that makes one picture with it; docs/parity.md shows such a
function.

    python lab/record_authors.py --program MagicFace --call my_run:generate --output one.safetensors
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

UNET = "unet."
"""Before the names of the UNet's weights."""

# What of diffusers' UNet config says which UNet it is.
_CONFIG = (
    "sample_size",
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "attention_head_dim",
    "transformer_layers_per_block",
    "use_linear_projection",
    "down_block_types",
    "up_block_types",
)


class Recorder:
    """Collects what one run of the program computes.

    Args:
        case: name of the run, for the metadata.
        seed: the seed of the run, for the metadata.
    """

    def __init__(self, case: str = "", seed: int = 0) -> None:
        self._case, self._seed = case, seed
        self._first: dict[str, Tensor] = {}
        self._steps: dict[str, list[Tensor]] = {
            name: [] for name in ("noises", "latents", "eps", "ca_masks", "fore_masks", "timesteps")
        }
        self._suppression: float | None = None
        self._rest: dict[str, Tensor] = {}
        self._settings: dict[str, Any] = {}

    @contextmanager
    def watching(self, pipeline: Any, attention: Any, guidance: float) -> Iterator[None]:
        """Collect what the pipeline computes in the `with` block, which holds its call.

        Args:
            pipeline: the program's pipeline; its UNet calls and its scheduler are watched, and `get_mask` in the module
                of its class.
            attention: the program's ReferenceAttention, whose attributes are the settings.
            guidance: the guidance scale that the pipeline is called with.
        """
        module = sys.modules[type(pipeline).__module__]
        scheduler, unet = pipeline.scheduler, pipeline.unet
        with ExitStack() as stack:
            stack.enter_context(_wrap(scheduler, "add_noise", self._on_noise))
            stack.enter_context(_wrap(scheduler, "step", self._on_step))
            stack.enter_context(_wrap(module, "get_mask", self._on_segmentation))
            hook = unet.register_forward_pre_hook(self._on_unet_call, with_kwargs=True)
            stack.callback(hook.remove)
            yield
        self._finish(unet, scheduler, attention, guidance)

    def _on_unet_call(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A UNet call: rows are (target, references) of the uncond half, then the same of the cond half."""
        if "z_T" in self._first:
            return
        sample = args[0] if args else kwargs["sample"]
        text = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        uncond, cond = text.chunk(2)
        self._first |= {"z_T": _copy(sample[:1]), "uncond": _copy(uncond[:1]), "cond": _copy(cond)}

    def _on_noise(self, _: Any, original: Tensor, noise: Tensor, *__: Any, **___: Any) -> None:
        self._first.setdefault("ref_latents", _copy(original))
        self._steps["noises"].append(_copy(noise))

    def _on_segmentation(self, result: Any, *_: Any, **kwargs: Any) -> None:
        masks, foreground = result
        self._steps["ca_masks"].append(_copy(masks))
        self._steps["fore_masks"].append(_copy(foreground))
        self._suppression = float(kwargs["ca_scale"])

    def _on_step(self, result: Any, guided: Tensor, timestep: Any, *_: Any, **__: Any) -> None:
        after = result[0] if isinstance(result, tuple) else result.prev_sample
        self._steps["eps"].append(_copy(guided[:1]))
        self._steps["latents"].append(_copy(after[:1]))
        self._steps["timesteps"].append(torch.as_tensor(timestep).cpu().long().reshape(()))

    def _finish(self, unet: Any, scheduler: Any, attention: Any, guidance: float) -> None:
        lengths = {name: len(entries) for name, entries in self._steps.items()}
        if not lengths["latents"] or len(set(lengths.values())) > 1:
            raise ValueError(f"the recorded run is incomplete: {lengths}")
        config = dict(unet.config)
        self._settings = {
            "ref_index": json.dumps([int(index) for index in attention.ref_index]),
            "mask_weights": json.dumps([float(weight) for weight in attention.mask_weights]),
            "inject_step": str(int(attention.inject_step)),
            "layers": spans(attention.layer_idx),
            "ca_scale": str(self._suppression),
            "guidance": str(float(guidance)),
            "steps": str(lengths["latents"]),
            "H": str(self._first["z_T"].shape[-1]),
            "unet_config": json.dumps({name: config[name] for name in _CONFIG if name in config}),
            "case": self._case,
            "seed": str(self._seed),
        }
        masks = torch.cat([mask.reshape(1, 1, *mask.shape[-2:]) for mask in attention.ref_masks])
        self._rest = {
            "ref_masks": (masks > 0).to("cpu", torch.uint8),
            "alphas_cumprod": _copy(scheduler.alphas_cumprod),
            "plain": self._plain(unet),
            **{f"{UNET}{name}": _copy(weight) for name, weight in unet.state_dict().items()},
        }

    def _plain(self, unet: Any) -> Tensor:
        """(2, 4, H, W) the UNet's output for (uncond, cond) on z_T at the first timestep, without the method."""
        unet.set_default_attn_processor()
        weight = next(unet.parameters())
        latents = torch.cat([self._first["z_T"]] * 2).to(weight)
        text = torch.cat([self._first["uncond"], self._first["cond"][:1]]).to(weight)
        with torch.no_grad():
            out = unet(latents, self._steps["timesteps"][0].to(weight.device), encoder_hidden_states=text)
        return _copy(out[0] if isinstance(out, tuple) else out.sample)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the file by name, in main memory."""
        stacked = {name: torch.stack(entries) for name, entries in self._steps.items()}
        return {**self._first, **stacked, **self._rest}

    def metadata(self) -> dict[str, str]:
        """The file's metadata."""
        return dict(self._settings)

    def write(self, file: Path) -> None:
        """Write the recorded run.

        Raises:
            ValueError: no run was watched to its end.
        """
        if not self._settings:
            raise ValueError("no run was recorded: call the pipeline within `with recorder.watching(...)`")
        save_file({name: tensor.contiguous() for name, tensor in self.tensors().items()}, file, self.metadata())


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers as spans: [10, 11, 12, 14] -> "10-12,14"."""
    found: list[list[int]] = []
    for number in sorted({int(number) for number in numbers}):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ",".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in found)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


@contextmanager
def _wrap(owner: Any, name: str, watch: Callable[..., None]) -> Iterator[None]:
    """Let `watch` see the result and the arguments of each call of owner.name."""
    original = getattr(owner, name)
    own = vars(owner).get(name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        watch(result, *args, **kwargs)
        return result

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        # An attribute of the class is found there again.
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def main(argv: Sequence[str]) -> int:
    """Run the given function and write what it computed."""
    parser = argparse.ArgumentParser(description="Record a run of the authors' program, see docs/parity.md.")
    parser.add_argument("--program", type=Path, required=True, help="checkout of the authors' program")
    parser.add_argument("--call", required=True, metavar="MODULE:FUNCTION", help="makes one picture; given a Recorder")
    parser.add_argument("--output", type=Path, required=True, help="file to write, .safetensors")
    parser.add_argument("--case", default="", help="name of the run")
    parser.add_argument("--seed", type=int, default=0, help="the run's seed")
    arguments = parser.parse_args(argv)
    module, _, function = arguments.call.partition(":")
    if not function:
        parser.error("--call: give MODULE:FUNCTION")
    if not arguments.program.is_dir():
        parser.error(f"--program: no folder {arguments.program}")
    sys.path[:0] = [str(Path.cwd()), str(arguments.program.resolve())]
    recorder = Recorder(arguments.case or arguments.output.stem, arguments.seed)
    torch.manual_seed(arguments.seed)
    getattr(importlib.import_module(module), function)(recorder)
    recorder.write(arguments.output)
    print(f"wrote {arguments.output}: {recorder.metadata()['steps']} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
