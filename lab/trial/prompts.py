"""The workflows of a trial, in API format, with the defaults of the nodes that the server has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from devtools.client import Prompt
from devtools.model import REPLACED, with_model

from .concepts import Concept
from .errors import TrialError

Link = list[Any]
STEPS, CFG = 30, 7.0  # as in the shipped workflows
SEED = "KSampler.seed"  # the small model has a seed too, which stays
_PREFIX = "magicface_trial/"  # a folder of the server


class Graph:
    """Nodes that are added one by one."""

    def __init__(self, known: Mapping[str, Any], checkpoint: str | None) -> None:
        """
        Args:
            known: the server's nodes, as /object_info describes them.
            checkpoint: its name on the server; None for the small model.
        """
        self.known = known
        self.nodes: Prompt = {}
        self.checkpoint = checkpoint
        loader = self.add(REPLACED, ckpt_name=checkpoint)
        self.model, self.clip, self.vae = ([loader, output] for output in range(3))

    def add(self, kind: str, **inputs: Any) -> str:
        """Add a node, whose other inputs have their defaults; returns its id."""
        if kind not in self.known:
            raise TrialError(f"the server has no node {kind}; is its ComfyUI newer than those that MagicFace knows?")
        node_id = str(len(self.nodes) + 1)
        self.nodes[node_id] = {"class_type": kind, "inputs": {**defaults_of(self.known[kind]), **inputs}}
        return node_id

    def link(self, kind: str, **inputs: Any) -> Link:
        """Add a node; returns its first output."""
        return [self.add(kind, **inputs), 0]

    def batch(self, images: Sequence[Link]) -> Link:
        """All images in a row, which are saved in this order."""
        first, *others = images
        for other in others:
            first = self.link("ImageBatch", image1=first, image2=other)
        return first

    def done(self) -> Prompt:
        """The whole prompt; without a checkpoint it has the small model, and sizes and steps that suit it."""
        return self.nodes if self.checkpoint else with_model(self.nodes)


def picture_prompt(graph: Graph, concepts: Sequence[Concept], text: str, size_px: int, with_magicface: bool) -> Prompt:
    """Makes the picture; with MagicFace also its regions, which are saved behind it in the order of the concepts."""
    model = graph.model
    if with_magicface:
        references = {
            f"references.reference{number}": _reference(graph, concept) for number, concept in enumerate(concepts)
        }
        schedule = graph.link("MagicFaceSchedule")
        model = graph.link("MagicFaceApply", model=model, schedule=schedule, **references)
    latent = graph.link(
        "KSampler", model=model, seed=0, steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="normal", denoise=1.0,
        positive=graph.link("MagicFacePrompt", text=text, clip=graph.clip),
        negative=graph.link("CLIPTextEncode", text="", clip=graph.clip),
        latent_image=graph.link("EmptyLatentImage"),
    )  # fmt: skip
    images = [graph.link("VAEDecode", samples=latent, vae=graph.vae)]
    if with_magicface:
        preview = graph.add("MagicFaceSegmentationPreview", latent=latent, image=images[0])
        images.append(graph.link("MaskToImage", mask=[preview, 1]))
    graph.add("SaveImage", images=graph.batch(images))
    prompt = graph.done()
    for node in prompt.values():
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"].update(width=size_px, height=size_px, batch_size=1)
    return prompt


def words_prompt(graph: Graph, caption: str, words: Sequence[str]) -> Prompt:
    """Finds words in a picture and saves their masks in the order of the words."""
    image = graph.link("LoadImage", image="")
    mask = {"model": graph.model, "clip": graph.clip, "vae": graph.vae, "image": image, "caption": caption}
    masks = [graph.link("MagicFaceConceptMask", concept=word, **mask) for word in words]
    graph.add("SaveImage", images=graph.batch([graph.link("MaskToImage", mask=mask) for mask in masks]))
    # Job lists give pictures to references only.
    graph.add(
        "MagicFaceReference", image=image, vae=graph.vae, clip=graph.clip, caption=caption, concept=words[0],
        mask=masks[0],
    )  # fmt: skip
    return graph.done()


def job(name: str, **options: Any) -> dict[str, Any]:
    """A row of a job list, whose pictures on the server are named after it."""
    given = {**options.pop("set", {}), "SaveImage.filename_prefix": _PREFIX + name}
    return {
        "id": name,
        **options,
        "set": {place: value if isinstance(value, str) else json.dumps(value) for place, value in given.items()},
    }


def job_of(prompt: Prompt) -> str | None:
    """The name of the job that a prompt is; None for a prompt of others."""
    prefixes = [str(node["inputs"].get("filename_prefix", "")) for node in prompt.values()]
    return next((name.removeprefix(_PREFIX) for name in prefixes if name.startswith(_PREFIX)), None)


def references_in(prompt: Prompt) -> list[str]:
    """The ids of the references, in order."""
    return [node_id for node_id, node in prompt.items() if node["class_type"] == "MagicFaceReference"]


def _reference(graph: Graph, concept: Concept) -> Link:
    reference = graph.link(
        "MagicFaceReference", image=graph.link("LoadImage", image=""), vae=graph.vae, clip=graph.clip,
        mask=graph.link("LoadImageMask", image="", channel="red"), caption=concept.caption, concept=concept.word,
    )  # fmt: skip
    return graph.link("MagicFaceMaskWeight", reference=reference)


def defaults_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a node's inputs, as /object_info describes it."""
    found = {}
    for group in ("required", "optional"):
        for name, (kind, *more) in described["input"].get(group, {}).items():
            options = more[0] if more else {}
            choices = kind if isinstance(kind, list) else options.get("options") or [None]
            value = options.get("default", choices[0] if choices else None)
            if value is not None:
                found[name] = value
    return found


def change(prompts: Sequence[Prompt], text: str) -> None:
    """Set an input of all nodes of a class, as NODE.INPUT=VALUE says.

    Raises:
        TrialError: no prompt has it.
    """
    place, equals, written = text.partition("=")
    kind, dot, name = place.partition(".")
    found = [node["inputs"] for prompt in prompts for node in prompt.values() if node["class_type"] == kind]
    found = [inputs for inputs in found if name in inputs]
    if not (equals and dot and found):
        raise TrialError(f"--set {text}: is not NODE.INPUT=VALUE of a node of the trial, as KSampler.steps=20 is")
    try:
        value = json.loads(written)
    except ValueError:
        value = written
    for inputs in found:
        inputs[name] = value
