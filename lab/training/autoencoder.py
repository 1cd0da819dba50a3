"""The autoencoder: from drawings to latents with 4 channels and an eighth of their size, and back."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from comfy.ldm.cascade.stage_a import StageA
from einops import rearrange
from torch import Tensor

from devtools.tiny_pack.families import PORTRAITS

from .drawn_set import Drawings
from .initial import initial_weights
from .loop import Phase, generator_at

STEPS, RATE = 1500, 1e-3
COUNT, SIDE_PX, PARTS = 6, 128, 2  # crops in a part of a step, and number of parts
LATENT_NOISE = 0.08  # std, of latents with variance 1: errors of the denoiser must not be visible
SCALE = 0.02  # weight of the loss that keeps the variance of latents near 1, without which the noise would be nothing
EDGES = 0.5  # weight of the loss on differences between neighbouring pixels
MEASURED = 64  # drawings, for the norm of an untrained autoencoder
_BRANCHES = (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)  # StageA's gammas: no shift after its norms, both branches at full strength
_LAST, _NORM, _FIRST = "down_blocks.5.0", "down_blocks.5.1", "up_blocks.0.0"  # the layers next to the latent


def make() -> StageA:
    """The untrained autoencoder; `finish` sets its batch norm, so that latents have mean 0 and variance 1."""
    model = StageA(**PORTRAITS.vae)
    # The last layer of each residual branch starts small.
    weights = initial_weights(model, "autoencoder", {"channelwise.2": 0.2, "depthwise.1": 0.5})
    model.load_state_dict({**model.state_dict(), **weights})
    for name, weight in model.named_parameters():
        if name.endswith(".gammas"):
            weight.data = torch.tensor(_BRANCHES)
        weight.requires_grad_(not name.startswith(_NORM) and not name.endswith((".gammas", "codebook.weight")))
    return model.to(memory_format=torch.channels_last)


def finished(weights: dict[str, Tensor]) -> StageA:
    """The autoencoder of an earlier training, which is not trained any more."""
    model = make()
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def continue_from(model: StageA, finished: dict[str, Tensor], scale: float) -> None:
    """Load the weights of a finished autoencoder. What it decodes stays the same; its latents get variance 1."""
    model.load_state_dict(finished)
    last, norm, first = (model.get_submodule(name) for name in (_LAST, _NORM, _FIRST))
    size = last.weight.std() * math.sqrt(last.in_channels)  # 1 for initial weights
    last.weight.div_(size)
    norm.running_mean.div_(size)
    norm.running_var.div_(size**2)
    norm.weight.fill_(1)
    first.weight.div_(scale)


@torch.no_grad()
def measure_norm(model: StageA, pictures: Tensor) -> None:
    """Set the norm of the latents to the mean and variance that they have for (n, 3, h, w) pictures."""
    norm = model.get_submodule(_NORM)
    norm.reset_running_stats()
    norm.momentum = None  # a plain mean over all batches
    norm.train()
    for batch in pictures.split(16):
        model.encode(batch)
    norm.eval()


def phase(model: StageA, drawings: Drawings, device: torch.device) -> Phase:
    """The phase that trains on random crops. The norm stays as it is: the mean of few crops would take their colour."""
    model.get_submodule(_NORM).eval()

    def losses(number: int) -> dict[str, Tensor]:
        generator = generator_at(number)
        pictures = crops(drawings, generator).to(device, memory_format=torch.channels_last)
        latents = model.encode(pictures)
        noise = LATENT_NOISE * torch.randn(latents.shape, generator=generator)
        found = distance(model.decode(latents + noise.to(device)), pictures)
        return {**found, "scale": SCALE * (latents.square().mean() - 1).square()}

    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return Phase("autoencoder", STEPS, RATE, trained, losses, PARTS)


def crops(drawings: Drawings, generator: torch.Generator) -> Tensor:
    """(COUNT, 3, SIDE_PX, SIDE_PX) float32 in -1..1: random crops, half of them mirrored."""

    def chosen(high: int) -> list[int]:
        return torch.randint(high, (COUNT,), generator=generator).tolist()

    span = drawings.pictures.shape[1] - SIDE_PX + 1
    crops_at = zip(chosen(len(drawings.pictures)), chosen(span), chosen(span), chosen(2), strict=True)
    taken = []
    for number, top, left, mirrored in crops_at:
        crop = torch.from_numpy(drawings.pictures[number, top : top + SIDE_PX, left : left + SIDE_PX])
        taken.append(crop.flip(1) if mirrored else crop)
    return pixels(torch.stack(taken))


def pixels(pictures: Tensor) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) float32 in -1..1."""
    return rearrange(pictures, "n h w c -> n c h w").float() / 127.5 - 1


def distance(made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Mean absolute error of pixels, and of the differences between neighbouring pixels."""
    error = made - wanted
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return {"pixels": F.l1_loss(made, wanted), "edges": EDGES * edges}


@torch.no_grad()
def finish(model: StageA, average: dict[str, Tensor], pictures: Tensor, scale: float) -> None:
    """Load the averaged weights, measure the latents again and scale them as the family requires.

    Args:
        model: the trained autoencoder, changed in place and set to evaluation.
        average: averaged weights, by name.
        pictures: (n, 3, h, w) to measure mean and variance of the latents.
        scale: the factor that gives latents variance 1, `latent_format.scale_factor` of the family.
    """
    model.load_state_dict({**model.state_dict(), **average})
    model.eval()
    last, norm, first = (model.get_submodule(name) for name in (_LAST, _NORM, _FIRST))
    # The decoder is trained for the latents as they are: its first layer takes back what the norm changes.
    before_mean, before_std = norm.running_mean.clone(), norm.running_var.sqrt()
    measure_norm(model, pictures)
    std = norm.running_var.sqrt()
    first.bias.add_(first.weight.flatten(1) @ ((norm.running_mean - before_mean) / before_std))
    first.weight.mul_((std / before_std).view(1, -1, 1, 1))
    # Move the division by the std into the layer before the norm: the variance may be too large for float16.
    last.weight.div_(std.view(-1, 1, 1, 1))
    norm.running_mean.div_(std)
    norm.running_var.fill_(1)
    norm.weight.fill_(1 / scale)
    first.weight.mul_(scale)
