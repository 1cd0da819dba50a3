"""One run by two programs: the oracle's program gets the same inputs that the nodes give to the product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from oracle.program import Found, Picture, PlainProgram
from torch import Tensor

from .graph import HAT, NEGATIVE, PROMPT, SCARF, Graph, box, picture
from .steering import Evaluation, assert_same_labels

# The decoder's two finest resolutions with attention.
INJECTED = {"sdxl": range(6), "sd1": range(6, 12), "sd2": range(6, 12)}


@dataclass(frozen=True)
class Case:
    """The settings of a run, and its expected token positions: those of phrases and of start tokens."""

    family: str = "sdxl"
    v_prediction: bool = False
    dtype: torch.dtype = torch.float32
    prompt: str = PROMPT
    positions: tuple[tuple[int, ...], ...] = ((HAT,), (SCARF,))
    starts: tuple[tuple[int, ...], tuple[int, ...]] = ((0,), (0,))
    through: Callable[[Graph, Any], Any] = lambda graph, positive: positive
    negative: str = NEGATIVE
    negative_counts: bool = True
    size: tuple[int, int] = (16, 24)
    batch: int = 1
    cfg: float = 6.0
    start: float = 0.0
    switch: float = 0.43
    end: float = 1.0
    suppression: float = 0.6
    suppression_given: bool = False
    references: str = "hat scarf"
    guidance: bool = True
    segmented: tuple[tuple[str, int, int], ...] | None = None
    from_step: int = 0
    refresh: float = 0.0
    picture: tuple[int, int] | None = None


def references(graph: Graph, names: str) -> list[Any]:
    """References of these concepts.

    The hat has one view, whose size and aspect ratio differ from the target's; the scarf has two, with a thin, soft
    mask.
    """
    made = []
    for number, name in enumerate(names.split()):
        if name == "hat":
            mask = box(160, 96, 16, 16 + 8 * number, 96, 80)
            reference = graph.reference(name, image=picture(number, 160, 96), mask=mask, size=128)
            made.append(graph.mask_weight(reference, weight=3.0 - number / 2, injection_weight=2.5))
        else:
            masks = torch.cat([box(64, 128, 0, 3, 37, 90) * 0.75, box(64, 128, 21, 40, 64, 128)])
            reference = graph.reference(name, image=picture(number, 64, 128, views=2), mask=masks, size=96)
            made.append(graph.mask_weight(reference, weight=2.0, resize="area"))
    return made


def patch_model(graph: Graph, case: Case, given: list[Any]) -> Any:
    """The model with the product applied."""
    schedule = graph.schedule(
        start=case.start,
        switch=case.switch,
        end=case.end,
        semantic_guidance=case.guidance,
        segmentation_blocks="all" if case.segmented is None else "auto",
        token_suppression=case.suppression if case.suppression_given else 0.0,
        refresh=case.refresh,
    )
    return graph.apply(graph.model, *given, schedule=schedule)


def positive_of(graph: Graph, case: Case) -> Any:
    """The product's positive prompt."""
    return case.through(graph, graph.prompt(case.prompt))


def negative_of(graph: Graph, case: Case) -> Any:
    """Both programs' negative prompt."""
    conditioning = graph.text(case.negative)
    if case.negative_counts:
        return conditioning
    [[text, options]] = conditioning
    return [[torch.zeros_like(text), {**options, "pooled_output": torch.zeros_like(options["pooled_output"])}]]


def _views(graph: Graph, reference: Any, occurrence: int) -> list[Picture]:
    """A reference's views for the plain program: latents, masks and text are inputs, not part of the method."""
    [[text, options]] = reference.conditioning
    source = graph.pack.sampling.references.noise.SeededNoise(0)

    def view(number: int) -> Picture:
        latent = graph.model.model.process_latent_in(reference.latents[number : number + 1])
        name = f"{reference.concept}|{reference.caption}|{occurrence}|{number}"
        weights = reference.weight, reference.blend_weight
        pooled, mask, shape = options["pooled_output"], reference.masks[number], tuple(latent.shape)
        return Picture(latent, mask, text, pooled, lambda sigma: source(name, sigma, shape), weights, reference.resize)

    return [view(number) for number in range(len(reference.latents))]


def _concepts(graph: Graph, given: list[Any]) -> list[list[Picture]]:
    """The views of each concept, in the order of their first references."""
    concepts: dict[str, list[list[Picture]]] = {}
    for reference in given:
        known = concepts.setdefault(reference.concept, [])
        known.append(_views(graph, reference, len(known)))
    return [[view for seen in known for view in seen] for known in concepts.values()]


def plain_program(graph: Graph, case: Case, given: list[Any]) -> PlainProgram:
    """The plain program for a case, its model loaded."""
    comfy.model_management.load_models_gpu([graph.model])
    base = graph.model.model
    [[text, options]] = case.through(graph, graph.text(case.prompt))
    [[negative, negative_options]] = negative_of(graph, case)

    def level(percent: float) -> float:
        ends = {0.0: 1e9, 1.0: 0.0}
        return ends[percent] if percent in ends else float(base.model_sampling.sigma(torch.tensor(999 * (1 - percent))))

    def reference_level(sigma: float) -> float:
        if not case.refresh:
            return sigma
        width = case.refresh  # divides 1
        part = next(part for part in range(round(1 / width)) if sigma > level((part + 1) * width))
        return level((part + 0.5) * width)

    concepts = _concepts(graph, given)
    return PlainProgram(
        model=base,
        concepts=concepts,
        positions=[list(positions) for positions in case.positions[: len(concepts)]],
        positive=(text, options["pooled_output"]),
        negative=None if case.cfg == 1 else (negative, negative_options["pooled_output"]),
        starts=(list(case.starts[0]), list(case.starts[1])),
        cfg=case.cfg,
        suppression=case.suppression,
        start=level(case.start),
        switch=level(case.switch),
        end=level(case.end),
        injected={("output", number) for number in INJECTED[case.family]},
        segmented=None if case.segmented is None else set(case.segmented),
        guidance=case.guidance,
        negative_counts=case.negative_counts,
        picture=case.picture,
        reference_level=reference_level,
    )


def regions_of(evaluation: Evaluation, image: int = 0) -> Found | None:
    """One image's regions from an evaluation of the product, in the plain program's form."""
    given = evaluation.regions
    return given and Found(given.labels[image], given.concepts[image], given.foreground[image])


def assert_found(evaluation: Evaluation, found: Found | None, image: int = 0) -> None:
    """Assert that the product found the same regions for an image as the plain program, except at near ties."""
    ours = regions_of(evaluation, image)
    assert (ours is None) == (found is None)
    if ours is not None and found is not None:
        for name in ("labels", "concepts", "foreground"):
            assert_same_labels(getattr(ours, name), getattr(found, name), found.margin, name)


@dataclass
class PlainGuider:
    """The plain program as a guider for ComfyUI's samplers, steered by the regions of a run of the product.

    Attributes:
        program: the program.
        model_patcher: the ModelPatcher of its model.
        leader: the evaluations of the product's run; their regions replace its own.
        found: the regions that its own evaluations found.
    """

    program: PlainProgram
    model_patcher: Any
    leader: list[Evaluation]
    found: list[Found | None] = field(default_factory=list)

    @property
    def inner_model(self) -> Any:
        """ComfyUI's BaseModel."""
        return self.program.model

    @property
    def cfg(self) -> float:
        """The guidance scale, which ComfyUI writes to its log."""
        return self.program.cfg

    def __call__(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None) -> Tensor:
        """One evaluation; cfg++ samplers read its predictions through a post-CFG function that they add."""
        number, sigma = len(self.found), float(timestep[0])
        led = self.leader[number]
        before = regions_of(self.leader[number - 1]) if number else None
        if led.initial is not None:
            _, own = self.program.evaluate(x, sigma, None, layout=True)
            initial = replace(led, regions=led.initial)
            assert_found(initial, own)
            before = regions_of(initial)
        denoised, found = self.program.evaluate(x, sigma, before, regions_of(led))
        self.found.append(found)
        for look in model_options.get("sampler_post_cfg_function", []):
            denoised = look({"denoised": denoised, "uncond_denoised": self.program.uncond})
        return denoised

    def sample(self, sampler: str, sigmas: Tensor, noise: Tensor, latent: Tensor, seed: int, **kwargs: Any) -> Tensor:
        """Sample with a ComfyUI sampler and assert that each evaluation finds the leader's regions.

        Returns:
            The latent as a KSampler returns it.
        """
        base = self.program.model
        start = base.process_latent_in(latent) if latent.any() else latent
        extra = {"model_options": {"transformer_options": {}}, "seed": seed}
        made = comfy.samplers.sampler_object(sampler).sample(self, sigmas, extra, None, noise, start, **kwargs)
        for evaluation, found in zip(self.leader, self.found, strict=True):
            assert_found(evaluation, found)
        return base.process_latent_out(made)
