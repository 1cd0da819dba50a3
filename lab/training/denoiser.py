"""The UNet and its text encoders, trained together on the latents of drawings."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from devtools.incore import load_pack
from devtools.tiny_pack import tiny_model
from devtools.tiny_pack.families import PORTRAITS

from ..judge import PARTS
from .autoencoder import pixels
from .drawn_set import Drawings
from .grounding import Block, RecordedAttention, noun_loss, thing_loss
from .initial import initial_weights
from .loop import Phase, generator_at
from .text import Tokens, encode

RATE, BATCH, PARTS_OF_STEP = 1e-3, 16, 2  # BATCH drawings in each part of a step
DECAY = 0.3  # see `Phase`; before it, the number of steps may still be changed
MOST_WEIGHT = 5.0  # of the error of the clean latent, see `phase`
MUCH_NOISE = 3.0  # sigma of the noise level that counts half as much, and higher ones less
NOUNS, THINGS = 0.1, 0.1  # weights of the grounding losses; the loss of v has weight 1
THING_BLOCKS = 5  # number of blocks, of 17, chosen in each step, whose self-attention has a loss
GROUNDED = 2  # one part of this many has the grounding losses, with as many times their weight
NO_CAPTION = 0.1  # share of the rows without a caption, for classifier-free guidance
SIZE_PX, GRID = 256, 16
TRUE_SIZES = 0.5  # share of the rows whose size conditioning is true


@dataclass(frozen=True, eq=False)
class LatentSet:
    """The training data of the denoiser.

    Attributes:
        latents: (n, 4, 32, 32) float16, in the UNet's space.
        shares: (n, 1 + parts, 16, 16) float16, the share of each cell that is background or a part.
        ids: for each encoder, (n, captions, 77) int32 token numbers of the captions of each drawing.
        empty: for each encoder, (77,) int64 token numbers of the empty caption.
    """

    latents: Tensor
    shares: Tensor
    ids: dict[str, Tensor]
    empty: dict[str, Tensor]


class Denoiser(nn.Module):
    """A small version of ComfyUI's SDXL model and text encoders, with initial weights."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_model.make_unet(PORTRAITS, torch.float32)
        # The last layers of residual branches start small, and the prediction starts at 0.
        gains = {"out_layers.3": 0.2, "proj_out": 0.2, "out.2": 0.0}
        self.model.diffusion_model.load_state_dict(initial_weights(self.unet, "denoiser", gains))
        self.encoders = tiny_model.make_encoders(PORTRAITS)
        self.encoders.load_state_dict(
            initial_weights(self.encoders, "text", {"token_embedding": 0.3, "position_embedding": 0.1}), strict=False
        )
        self.requires_grad_(True)
        self.tokens = Tokens()
        self.blocks: list[Block] = [block.key for block in load_pack().sampling.families.unet.layout_of(self.unet)]

    def load(self, file: Path) -> None:
        """Begin with the weights of an earlier training."""
        self.unet.load_state_dict(tiny_model.weights_in(file, "unet"))
        self.encoders.load_state_dict(tiny_model.weights_in(file, "text"))

    @property
    def unet(self) -> nn.Module:
        """The UNet itself."""
        return self.model.diffusion_model

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained weights, by name in the file."""
        named = {f"unet.{name}": weight for name, weight in self.unet.named_parameters()}
        named |= {f"text.{name}": weight for name, weight in self.encoders.named_parameters()}
        return {name: weight for name, weight in named.items() if not name.endswith("logit_scale")}

    def adm(self, pooled: Tensor, sizes: Tensor) -> Tensor:
        """The UNet's y, from (b, c) pooled text and (b, 6) height, width, crop, target height and width."""
        embedded = self.model.embedder(sizes.flatten()).view(len(sizes), -1)
        return torch.cat([pooled, embedded.to(pooled)], dim=1)


def encode_drawings(autoencoder: Any, parts: Iterable[Drawings], scale: float, device: torch.device) -> LatentSet:
    """Encode drawings and captions into the training data of the denoiser."""
    latents: list[Tensor] = []
    shares, ids = [], []
    tokens = Tokens()

    @torch.no_grad()  # which holds only in the thread that sets it
    def encoded(pictures: Tensor) -> Tensor:
        batch = pixels(pictures).to(device, memory_format=torch.channels_last)
        return (autoencoder.encode(batch) * scale).half().cpu()

    for drawings in parts:
        with ThreadPoolExecutor(os.cpu_count() if device.type == "cpu" else 1) as pool:
            latents += pool.map(encoded, torch.from_numpy(drawings.pictures).split(8))
        shares.append(cell_shares(torch.from_numpy(drawings.labels)))
        rows = [tokens(captions) for captions in drawings.captions]
        ids.append({key: torch.stack([row[key] for row in rows]).int() for key in rows[0]})
    empty = {key: row[0] for key, row in tokens([""]).items()}
    joined = {key: torch.cat([part[key] for part in ids]) for key in empty}
    return LatentSet(torch.cat(latents), torch.cat(shares), joined, empty)


def cell_shares(labels: Tensor) -> Tensor:
    """(n, 1 + parts, 16, 16) float16: the share of each label in each cell of (n, 256, 256) labels."""
    cells = rearrange(labels, "n (y i) (x j) -> n y x (i j)", y=GRID, x=GRID)
    return torch.stack([(cells == label).float().mean(-1) for label in range(1 + len(PARTS))], dim=1).half()


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 faster than in float32. A CPU that only converts is many times slower."""
    return device.type == "cuda" or (device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False))


def phase(denoiser: Denoiser, data: LatentSet, steps: int, device: torch.device) -> Phase:
    """The phase that trains on noised latents, with the error of v and the grounding losses.

    v is (noise - sigma * clean) / sqrt(1 + sigma^2): nearly the noise where there is little of it, nearly minus the
    clean latent where there is much. Where there is much noise, colours are decided, and the loss of a model that
    predicts the noise hardly counts an error of the clean latent.
    """
    sigmas = denoiser.model.model_sampling.sigmas.to(device)
    words = torch.tensor([denoiser.tokens.word(part) for part in PARTS])

    def losses(number: int) -> dict[str, Tensor]:
        generator = generator_at(number)
        chosen = torch.randint(len(data.latents), (BATCH,), generator=generator)
        ids = _captions(data, chosen, generator)
        sizes = _sizes(generator).to(device)
        clean = data.latents[chosen].float().to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        # One from each BATCH-th part of the schedule: the loss of a batch varies less.
        times = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) * (len(sigmas) / BATCH)
        times = times.long().clamp_max(len(sigmas) - 1).to(device)  # float32 rounds 15.99999999 to 16
        sigma = sigmas[times].view(-1, 1, 1, 1)
        noisy = (clean + sigma * noise) / (1 + sigma**2).sqrt()
        own, cross = RecordedAttention(), RecordedAttention()
        options, grounded = {}, number % GROUNDED == 0
        if grounded:
            some = torch.randperm(len(denoiser.blocks), generator=generator)[:THING_BLOCKS].tolist()
            entries = {"attn1": own.entries(denoiser.blocks[i] for i in some), "attn2": cross.entries(denoiser.blocks)}
            options = {"patches_replace": entries}

        with torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(device)):
            context, pooled = encode(denoiser.encoders, {key: rows.to(device) for key, rows in ids.items()})
            y = denoiser.adm(pooled, sizes)
            predicted = denoiser.unet(noisy, times.float(), context, y=y, transformer_options=options)
        v = (noise - sigma * clean) / (1 + sigma**2).sqrt()
        error = (predicted.float() - v).square().mean((1, 2, 3))
        # An error of v weights that of the clean latent by 1 + 1 / sigma^2. As in min-SNR (arXiv 2303.09556), this
        # weight is limited: what no model can predict, the noise in clear pictures, counts less. So does, as in EDM
        # (arXiv 2206.00364), what nobody can see in much noise.
        variance = sigma.flatten() ** 2
        weights = (MOST_WEIGHT * variance / (1 + variance)).clamp_max(1) / (1 + variance / MUCH_NOISE**2)
        found = {"v": (error * weights).mean()}
        if grounded:
            shares = data.shares[chosen].float().to(device)
            nouns = _nouns(ids["l"], words, data.shares[chosen])
            signal = 1 / (1 + variance)
            found["nouns"] = GROUNDED * NOUNS * noun_loss([maps.float() for maps in cross.maps], shares, nouns)
            found["things"] = GROUNDED * THINGS * thing_loss([maps.float() for maps in own.maps], shares, signal)
        return found

    return Phase("denoiser", steps, RATE, denoiser.trained(), losses, PARTS_OF_STEP, DECAY)


def _captions(data: LatentSet, chosen: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """For each encoder, (BATCH, 77) the tokens of one of the captions of each drawing, or of the empty one."""
    which = torch.randint(next(iter(data.ids.values())).shape[1], (BATCH,), generator=generator)
    dropped = torch.rand((BATCH, 1), generator=generator) < NO_CAPTION
    return {key: torch.where(dropped, data.empty[key], ids[chosen, which].long()) for key, ids in data.ids.items()}


def _nouns(ids: Tensor, words: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, positions and labels of the nouns that name a visible part."""
    visible = shares.amax((2, 3))[:, 1:] > 0  # (b, parts)
    named = (ids[:, :, None] == words) & visible[:, None]
    rows, positions, parts = named.nonzero(as_tuple=True)
    return rows, positions, parts + 1


def _sizes(generator: torch.Generator) -> Tensor:
    """(BATCH, 6) the true sizes, or random ones, since users' pictures have other sizes."""
    true = torch.tensor([SIZE_PX, SIZE_PX, 0, 0, SIZE_PX, SIZE_PX])
    high = torch.tensor([1024, 1024, 64, 64, 1024, 1024])
    low = torch.tensor([128, 128, 0, 0, 128, 128])
    other = low + torch.rand((BATCH, 6), generator=generator) * (high - low)
    is_true = torch.rand((BATCH, 1), generator=generator) < TRUE_SIZES
    return torch.where(is_true, true, other)


def state_of(denoiser: Denoiser, average: dict[str, Tensor], data: LatentSet) -> dict[str, Any]:
    """The averaged weights, and those that are not trained; the rows of the tokens that the captions have."""
    whole = {f"unet.{name}": value for name, value in denoiser.unet.state_dict().items()}
    whole |= {f"text.{name}": value for name, value in denoiser.encoders.state_dict().items()}
    known = torch.cat([ids.flatten() for ids in (*data.ids.values(), *data.empty.values())]).unique().long()
    return tiny_model.known_rows(whole | average, known)
