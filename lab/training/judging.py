"""Training of the judge, and its accuracy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..judge import PARTS, SIDE_PX, Judge
from ..portraits import LOOKS, PATTERNS, STYLES
from .drawn_set import Drawings
from .loop import Phase, generator_at

STEPS, RATE = 3200, 4e-3
BATCH, PARTS_OF_STEP = 10, 2  # drawings in a part of a step, and number of parts
RARITY = (1.0, 4.0, 4.0, 4.0)  # weights of `PATTERNS`, since most parts are plain
NO_PATTERN = -100  # the label that the loss ignores
_ENOUGH = 100  # pixels that are enough to show a pattern


def phase(judge: Judge, drawings: Drawings, device: torch.device) -> Phase:
    """The phase that trains on degraded drawings: blurred, noisy, changed in colour, as a model's pictures are."""
    judge.train()
    rarity = torch.tensor(RARITY, device=device)

    def losses(number: int) -> dict[str, Tensor]:
        generator = generator_at(number)
        chosen = torch.randint(len(drawings.pictures), (BATCH,), generator=generator)
        pictures, labels, patterns = (x.to(device) for x in examples(drawings, chosen))
        if torch.rand((), generator=generator) < 0.5:
            pictures, labels, patterns = pictures.flip(-1), labels.flip(-1), patterns.flip(-1)
        seen, filled, styles = judge(degraded(pictures.cpu(), generator).to(device))
        true_styles = torch.from_numpy(drawings.styles[chosen.numpy()]).long().to(device)
        return {
            "parts": F.cross_entropy(seen, labels),
            "patterns": 0.3 * F.cross_entropy(filled, patterns, rarity),
            "styles": 0.1 * F.cross_entropy(styles, true_styles),
        }

    return Phase("judge", STEPS, RATE, dict(judge.named_parameters()), losses, PARTS_OF_STEP)


def examples(drawings: Drawings, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (b, 3, 128, 128) in 0..1, labels and patterns (b, 128, 128) int64 of some drawings."""
    pictures = rearrange(torch.from_numpy(drawings.pictures[chosen.numpy()]), "b h w c -> b c h w").float() / 255
    pictures = F.interpolate(pictures, (SIDE_PX, SIDE_PX), mode="area")
    step = drawings.labels.shape[1] // SIDE_PX
    labels = torch.from_numpy(drawings.labels[chosen.numpy(), ::step, ::step]).long()
    of_parts = torch.from_numpy(drawings.patterns[chosen.numpy()]).long()
    background = torch.full((len(chosen), 1), NO_PATTERN)
    patterns = torch.cat([background, of_parts], dim=1).gather(1, labels.flatten(1)).view_as(labels)
    return pictures, labels, patterns


def degraded(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (b, 3, h, w), changed to look as if an imperfect model had made them."""
    count = len(pictures)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand((count, channels, 1, 1), generator=generator)

    coarse = F.interpolate(F.avg_pool2d(pictures, 4), scale_factor=4, mode="bilinear")
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blend = uniform(0, 1)
    worse = torch.lerp(pictures, torch.where(uniform(0, 1) < 0.3, coarse, soft), blend)
    worse = worse * uniform(0.85, 1.15, 3) + uniform(-0.08, 0.08, 3)
    spots = F.interpolate(torch.randn((count, 3, SIDE_PX // 8, SIDE_PX // 8), generator=generator), scale_factor=8.0)
    noise = torch.randn(pictures.shape, generator=generator)
    return (worse + uniform(0, 0.05) * spots + uniform(0, 0.04) * noise).clamp(0, 1)


@torch.no_grad()
def finish(judge: Judge, average: dict[str, Tensor], drawings: Drawings, device: torch.device) -> None:
    """Load the averaged weights and measure the statistics of the norms again."""
    judge.load_state_dict({**judge.state_dict(), **average})
    norms = [layer for layer in judge.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    judge.train()
    generator = generator_at(STEPS)
    for chosen in torch.arange(min(512, len(drawings.pictures))).split(32):
        judge(degraded(examples(drawings, chosen)[0], generator).to(device))
    judge.eval()


@torch.no_grad()
def accuracy(judge: Judge, drawings: Drawings) -> dict[str, float]:
    """The IoU of background and parts over all pixels, and for each pattern and style how often it is recognised.

    Patterns are judged by part, as in the measures, if the part can have one and is large enough to show it.
    """
    judge.eval()
    inside, either = torch.zeros(1 + len(PARTS)), torch.zeros(1 + len(PARTS))
    named: dict[str, list[bool]] = {name: [] for name in (*PATTERNS, *STYLES)}
    for chosen in torch.arange(len(drawings.pictures)).split(32):
        pictures, labels, patterns = examples(drawings, chosen)
        seen, filled, styles = judge(pictures)
        for style, said in zip(drawings.styles[chosen.numpy()], styles.argmax(1).tolist(), strict=True):
            named[STYLES[style]].append(bool(style == said))
        found, filled = seen.argmax(1), filled.softmax(1)
        for label, part in enumerate(("background", *PARTS)):
            is_there, is_seen = labels == label, found == label
            inside[label] += (is_there & is_seen).sum()
            either[label] += (is_there | is_seen).sum()
            if label and LOOKS[part][0] < 1:
                for image in (is_there.sum((1, 2)) > _ENOUGH).nonzero().flatten().tolist():
                    where = is_there[image]
                    true = PATTERNS[int(patterns[image][where][0])]
                    named[true].append(PATTERNS[int(filled[image][:, where].mean(1).argmax())] == true)
    scores = dict(zip(("background", *PARTS), (inside / either).tolist(), strict=True))
    return scores | {pattern: sum(right) / max(len(right), 1) for pattern, right in named.items()}
