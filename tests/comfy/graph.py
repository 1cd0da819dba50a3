"""Small graphs: the pack's nodes and ComfyUI's own on one small model, run as ComfyUI runs them."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import nodes as core_nodes

PROMPT = "a boy wearing a hat and a scarf"
HAT, SCARF = 5, 8  # positions of these words in PROMPT; the start token is 0
NEGATIVE = "bad picture"


def call(node: Any, **inputs: Any) -> Any:
    """Run a node of the V1 or V3 schema with these inputs and the defaults of all other widgets.

    Returns:
        Its NodeOutput or tuple, to be indexed.
    """
    if hasattr(node, "GET_SCHEMA"):
        widgets = {item.id: getattr(item, "default", None) for item in node.GET_SCHEMA().inputs}
        defaults = {name: value for name, value in widgets.items() if value is not None}
        return node.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**{**defaults, **inputs})
    widgets = {
        name: kind[1].get("default")
        for group in node.INPUT_TYPES().values()
        for name, kind in group.items()
        if isinstance(kind, tuple) and len(kind) > 1 and isinstance(kind[1], dict)
    }
    defaults = {name: value for name, value in widgets.items() if value is not None}
    return getattr(node(), node.FUNCTION)(**{**defaults, **inputs})


def picture(seed: int, height: int = 128, width: int = 128, views: int = 1) -> Tensor:
    """(views, height, width, 3) pictures of randomly coloured patches."""
    grid = (3, height // 16, width // 16)
    patches = torch.rand(views, *grid, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(patches, size=(height, width)).movedim(1, -1)


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> Tensor:
    """(1, height, width) mask of a box."""
    mask = torch.zeros(1, height, width)
    mask[:, top:bottom, left:right] = 1.0
    return mask


@dataclass(frozen=True)
class Graph:
    """One model's graph.

    Attributes:
        pack: the pack, as ComfyUI imported it.
        nodes: its node classes by id.
        model, clip, vae: the outputs of a checkpoint loader.
    """

    pack: ModuleType
    nodes: dict[str, Any]
    model: Any
    clip: Any
    vae: Any

    def run(self, node_id: str, **inputs: Any) -> Any:
        """Run one of the pack's nodes."""
        return call(self.nodes[node_id], **inputs)

    @property
    def sampling_error(self) -> type[Exception]:
        """What refuses a run that has begun."""
        error: type[Exception] = self.pack.sampling.errors.SamplingError
        return error

    def note(self, node_id: str, **inputs: Any) -> str:
        """The notes under the pictures that a node shows; there is a picture for each latent or image."""
        output = self.run(node_id, **inputs)
        assert output[0].ndim == 4 and torch.isfinite(output[0]).all() and len(output.ui["images"]) == len(output[0])
        return "\n".join(output.ui["text"])

    def reference(self, concept: str = "hat", seed: int = 1, *, weight: float | None = None, **inputs: Any) -> Any:
        """A reference from a small picture; passed through the mask weight node if a weight is given."""
        given = {"image": picture(seed), "vae": self.vae, "clip": self.clip, "caption": f"a man with a {concept}"}
        reference = self.run("MagicFaceReference", **{**given, "concept": concept, "size": 128, **inputs})[0]
        return reference if weight is None else self.mask_weight(reference, weight=weight)

    def mask_weight(self, reference: Any, **inputs: Any) -> Any:
        """The reference with other mask settings."""
        return self.run("MagicFaceMaskWeight", reference=reference, **inputs)[0]

    def region(self, reference: Any, mask: Tensor, how: str = "exactly here", **inputs: Any) -> Any:
        """The reference with a place in the picture."""
        return self.run("MagicFaceRegion", reference=reference, mask=mask, how=how, **inputs)[0]

    def two_references(self, first: float = 3.0, second: float = 3.0) -> list[Any]:
        """References of a hat and a scarf with these weights; the masks mark different parts of their pictures."""
        hat = self.reference("hat", 1, weight=first, mask=box(128, 128, 0, 16, 80, 112))
        return [hat, self.reference("scarf", 2, weight=second, mask=box(128, 128, 48, 0, 128, 128))]

    def schedule(self, **inputs: Any) -> Any:
        """A schedule with the node's defaults, except for the given inputs and references at every noise level."""
        return self.run("MagicFaceSchedule", **{"refresh": 0.0, **inputs})[0]

    def apply(self, model: Any, *references: Any, **inputs: Any) -> Any:
        """The model patched with these references."""
        numbered = {f"reference{number}": reference for number, reference in enumerate(references)}
        return self.run("MagicFaceApply", model=model, references=numbered, **inputs)[0]

    def record(self, **inputs: Any) -> Any:
        """The output of an attention record node."""
        return self.run("MagicFaceAttentionRecord", **inputs)[0]

    def prompt(self, text: str = PROMPT, **inputs: Any) -> Any:
        """A positive prompt."""
        return self.run("MagicFacePrompt", clip=self.clip, text=text, **inputs)[0]

    def text(self, text: str = NEGATIVE) -> Any:
        """The output of CLIPTextEncode."""
        return call(core_nodes.CLIPTextEncode, clip=self.clip, text=text)[0]

    def sample(
        self,
        model: Any,
        positive: Any = None,
        negative: Any = None,
        *,
        size: tuple[int, int] = (16, 16),
        batch: int = 1,
        latent: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> Tensor:
        """A KSampler's latent (b, 4, h, w): three euler steps at cfg 5 with seed 1, unless given otherwise."""
        given: dict[str, Any] = {"seed": 1, "steps": 3, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
        return call(
            core_nodes.KSampler,
            model=model,
            positive=positive or self.prompt(),
            negative=negative or self.text(),
            latent_image=latent or {"samples": torch.zeros(batch, 4, *size)},
            **{**given, **inputs},
        )[0]["samples"]

    def regions_by_step(self, latent: Tensor) -> list[list[Tensor]]:
        """For each image of a sampled latent, the regions at each step: (H2, W2) concept indices or -1.

        Raises:
            LookupError: no run is known for the latent.
        """
        return [[step.concepts[index].long() for step in history.steps] for history, index in self.runs(latent)]

    def runs(self, latent: Tensor) -> list[tuple[Any, int]]:
        """For each image of a sampled latent, the region history of its run and its index in that run's batch.

        Raises:
            LookupError: no run is known for the latent.
        """
        found: list[tuple[Any, int]] | None = self.pack.sampling.regions.history.REGION_STORE.find(latent)
        if found is None:
            raise LookupError("no run is known for this latent")
        return found


def assert_acts(
    graph: Graph, model: Any, *references: Any, least: float = 0.1, schedule: Any = None, **sampling: Any
) -> Tensor:
    """Assert that the method changes the picture and finds regions, and that weight 0 gives the unpatched picture.

    Returns:
        The latent sampled with the method.
    """
    plain = graph.sample(model, **sampling)
    latent = graph.sample(graph.apply(model, *references, schedule=schedule), **sampling)
    assert torch.isfinite(plain).all() and torch.isfinite(latent).all()
    assert (latent - plain).abs().max() > least
    for steps in graph.regions_by_step(latent):
        assert {0, 1} & set(torch.stack(steps).flatten().tolist())
    silent = [graph.mask_weight(reference, weight=0.0) for reference in references]
    assert torch.equal(graph.sample(graph.apply(model, *silent, schedule=schedule), **sampling), plain)
    return latent
