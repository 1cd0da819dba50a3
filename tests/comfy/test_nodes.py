"""The nodes: their names, which never change, and their outputs. The preview is tested in test_preview.py."""

from __future__ import annotations

from dataclasses import fields

import comfy.utils
import comfy_extras.nodes_clip_sdxl as sdxl_nodes
import pytest
import safetensors.torch
import torch

import nodes as core_nodes

from .graph import HAT, PROMPT, SCARF, box, call, picture

pytestmark = pytest.mark.usefixtures("as_node")

# Saved graphs contain these names: never change them; add new ones only at the end.
FROZEN = {
    "MagicFaceReference": (
        "image:IMAGE vae:VAE clip:CLIP caption:STRING concept:STRING size:INT mask:MASK? crop:BOOLEAN?",
        "reference:MAGICFACE_REFERENCE",
    ),
    "MagicFaceMaskWeight": (
        "reference:MAGICFACE_REFERENCE weight:FLOAT injection_weight:FLOAT resize:COMBO grow_px:INT feather_px:INT"
        " invert:BOOLEAN",
        "reference:MAGICFACE_REFERENCE mask:MASK",
    ),
    "MagicFaceRegion": (
        "reference:MAGICFACE_REFERENCE mask:MASK how:COMBO feather_px:INT",
        "reference:MAGICFACE_REFERENCE",
    ),
    "MagicFacePrompt": ("clip:CLIP text:STRING conditioning:CONDITIONING?", "CONDITIONING:CONDITIONING"),
    "MagicFaceSchedule": (
        "switch:FLOAT start:FLOAT end:FLOAT semantic_guidance:BOOLEAN injection_blocks:STRING"
        " segmentation_blocks:STRING token_suppression:FLOAT foreground:COMBO noise_seed:INT keep_mb:INT?"
        " keep_on:COMBO? refresh:FLOAT?",
        "schedule:MAGICFACE_SCHEDULE",
    ),
    "MagicFaceApply": (
        "model:MODEL references:COMFY_AUTOGROW_V3 schedule:MAGICFACE_SCHEDULE? record:MAGICFACE_RECORD?"
        " live_regions:BOOLEAN? strict:BOOLEAN?",
        "MODEL:MODEL",
    ),
    "MagicFaceSegmentationPreview": (
        "latent:LATENT step:INT image:IMAGE? all_steps:BOOLEAN?",
        "preview:IMAGE masks:MASK",
    ),
    "MagicFaceAttentionRecord": ("steps:STRING blocks:STRING most_mb:INT", "record:MAGICFACE_RECORD"),
    "MagicFaceAttentionView": (
        "latent:LATENT step:INT block:STRING query:COMBO x:INT y:INT image:IMAGE?",
        "view:IMAGE",
    ),
    "MagicFaceCorrespondence": ("latent:LATENT step:INT block:STRING image:IMAGE?", "view:IMAGE"),
    "MagicFaceConceptMask": (
        "model:MODEL clip:CLIP vae:VAE image:IMAGE caption:STRING concept:STRING size:INT threshold:FLOAT edge_px:INT"
        " blocks:STRING",
        "mask:MASK",
    ),
}
TAG = "magicface_prompt"


def test_names_never_change(magicface_nodes):
    found = {}
    for node_id, node in magicface_nodes.items():
        schema, info = node.GET_SCHEMA(), node.GET_NODE_INFO_V1()
        inputs = [f"{item.id}:{item.get_io_type()}{'?' * item.optional}" for item in schema.inputs]
        outputs = [f"{name}:{kind}" for name, kind in zip(info["output_name"], info["output"], strict=True)]
        found[node_id] = " ".join(inputs), " ".join(outputs)
    assert found == FROZEN


def test_choices_never_change(magicface_nodes):
    options = {
        (node_id, item.id): item.options
        for node_id, node in magicface_nodes.items()
        for item in node.GET_SCHEMA().inputs
        if item.get_io_type() == "COMBO"
    }
    assert options == {
        ("MagicFaceMaskWeight", "resize"): ["nearest", "area"],
        ("MagicFaceRegion", "how"): ["exactly here", "only within"],
        ("MagicFaceSchedule", "foreground"): ["auto", "always", "never"],
        ("MagicFaceSchedule", "keep_on"): ["main memory", "device"],
        ("MagicFaceAttentionView", "query"): ["regions", "pixel"],
    }


def test_references_have_ten_sockets(magicface_nodes):
    growing = magicface_nodes["MagicFaceApply"].GET_NODE_INFO_V1()["input"]["required"]["references"][1]["template"]
    assert (growing["prefix"], growing["min"], growing["max"]) == ("reference", 0, 10)


@pytest.mark.parametrize("node_id", FROZEN)
def test_every_input_and_output_has_a_tooltip(magicface_nodes, node_id):
    schema = magicface_nodes[node_id].GET_SCHEMA()
    for item in [*schema.inputs, *schema.outputs]:
        assert item.tooltip and len(item.tooltip) > 10, item.id
    assert schema.description and schema.display_name.startswith("MagicFace ") and schema.category == "MagicFace"


def test_defaults_are_those_of_the_settings(graph):
    """A schedule has the authors' defaults; a reference has those that docs/evaluation.md recommends."""
    nothing_said, settings = graph.pack.sampling.method.Schedule(), graph.run("MagicFaceSchedule")[0]
    for field in fields(nothing_said):
        assert getattr(settings, field.name) == getattr(nothing_said, field.name), field.name
    default = graph.apply(graph.model, *graph.two_references())
    spelt_out = graph.apply(graph.model, *graph.two_references(), schedule=settings)
    assert torch.equal(graph.sample(default), graph.sample(spelt_out))
    plain = graph.reference()
    for name, value in {"weight": 1.5, "blend_weight": 1.5, "resize": "area"}.items():
        assert getattr(plain, name) == getattr(graph.mask_weight(plain), name) == value


def test_references_are_ordered_by_socket_number(graph):
    """The later reference wins a pixel that both claim, so 10 comes after 2; free sockets are skipped."""
    hat, scarf = graph.two_references()

    def applied(**references):
        return graph.sample(graph.run("MagicFaceApply", model=graph.model, references=references)[0])

    expected = graph.sample(graph.apply(graph.model, hat, scarf))
    assert torch.equal(applied(reference10=scarf, reference2=hat), expected)
    assert torch.equal(applied(reference0=None, reference1=hat, reference2=scarf), expected)


# Reference


@pytest.mark.parametrize(
    ("height", "width", "size", "encoded"),
    [
        (128, 128, 128, (128, 128)),
        (160, 96, 128, (192, 128)),
        (96, 160, 128, (128, 192)),
        (300, 200, 256, (320, 192)),
        (1000, 10, 128, (1280, 64)),
        (90, 90, 100, (128, 128)),
    ],
)
def test_encoded_sizes(graph, height, width, size, encoded):
    image = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0))
    reference = graph.reference(image=image, size=size)
    assert reference.latents.shape == (1, 4, encoded[0] // 8, encoded[1] // 8)
    assert reference.masks.shape == (1, height, width) and bool((reference.masks == 1).all())


@pytest.mark.parametrize(("family", "size"), [("sdxl", 128), ("sd1", 64), ("sd2", 64)])
def test_the_default_size_depends_on_the_text_encoder(graph_of, family, size):
    """A 1:4 picture, whose sides stay multiples of 64, gets the area of 1024 x 1024 or of 512 x 512."""
    assert graph_of(family).reference(image=picture(1, 64, 256), size=0).latents.shape == (1, 4, size // 2, size * 2)


def test_pictures_and_captions_are_encoded_as_comfyui_does(graph):
    """Picture and caption are encoded as ComfyUI does; transparency is ignored."""
    image = picture(3, 128, 192, views=2).round()  # values that 8 bits can hold, since resizing uses 8 bits
    mask = torch.cat([box(128, 192, 0, 0, 64, 64), box(128, 192, 9, 9, 99, 99)])
    reference = graph.reference("red hat", image=image, mask=mask, caption="a (red:1.3) hat", size=157)
    # The number of pictures that are encoded together affects rounding.
    assert torch.equal(reference.latents, torch.cat([graph.vae.encode(view).float() for view in image.split(1)]))
    assert torch.equal(reference.masks, mask)
    assert reference.conditioning[0][0].equal(graph.text("a (red:1.3) hat")[0][0])
    assert (reference.concept, reference.caption) == ("red hat", "a (red:1.3) hat")
    with_alpha = torch.cat([image, torch.rand(2, 128, 192, 1)], dim=-1)
    again = graph.reference("red hat", image=with_alpha, mask=mask, caption="a (red:1.3) hat", size=157)
    assert torch.equal(again.latents, reference.latents)


def test_masks_of_other_sizes(graph):
    small = box(64, 64, 8, 16, 32, 48)
    assert torch.equal(graph.reference(mask=small).masks, box(128, 128, 16, 32, 64, 96))
    assert torch.equal(graph.reference(mask=small[0]).masks, box(128, 128, 16, 32, 64, 96))
    nearly_one = torch.full((1, 128, 128), 1.0005)
    assert graph.reference(mask=nearly_one).masks.max() == 1.0


# Mask weight


def test_weights_are_set_on_a_copy(graph):
    reference = graph.reference(mask=box(128, 128, 32, 32, 96, 96))
    weighted, mask = graph.run("MagicFaceMaskWeight", reference=reference, weight=3.5, injection_weight=1.2)
    assert (weighted.weight, weighted.blend_weight) == (3.5, 1.2)
    assert torch.equal(mask, weighted.masks) and torch.equal(mask, reference.masks)
    assert weighted.latents is reference.latents and weighted.conditioning is reference.conditioning
    assert graph.mask_weight(reference, weight=3.5).blend_weight == 3.5
    assert graph.mask_weight(reference, weight=3.5, injection_weight=0.0).blend_weight == 0.0
    assert (reference.weight, reference.blend_weight) == (1.5, 1.5)


def test_masks_are_inverted_then_grown_then_feathered(graph):
    reference = graph.reference(mask=box(128, 128, 32, 40, 96, 100))

    def mask(**inputs):
        return graph.run("MagicFaceMaskWeight", reference=reference, **inputs)[1]

    assert torch.equal(mask(grow_px=5), box(128, 128, 27, 35, 101, 105))
    assert torch.equal(mask(grow_px=-5), box(128, 128, 37, 45, 91, 95))
    assert torch.equal(mask(grow_px=50), box(128, 128, 0, 0, 128, 128))
    assert torch.equal(mask(invert=True), 1 - box(128, 128, 32, 40, 96, 100))
    assert torch.equal(mask(invert=True, grow_px=5), 1 - box(128, 128, 37, 45, 91, 95))
    across = torch.tensor([0, 1, 3, 6, 8, 9]) / 9  # two means of three pixels each
    torch.testing.assert_close(mask(feather_px=1)[0, 64, 37:43], across)
    torch.testing.assert_close(mask(feather_px=1, grow_px=5)[0, 64, 32:38], across)
    torch.testing.assert_close(mask(feather_px=1)[0, 64, 97:103], across.flip(0))
    assert torch.equal(reference.masks, box(128, 128, 32, 40, 96, 100))


# Prompt


@pytest.mark.parametrize("family", ["sdxl", "sd2", "sd1"])
@pytest.mark.parametrize("text", [PROMPT, "a (hat:1.3) and a [scarf]", "a hat " * 60, ""])
def test_prompts_are_encoded_as_clip_text_encode_does(graph_of, family, text):
    graph = graph_of(family)
    [[encoded, options]], [[expected, expected_options]] = graph.prompt(text), graph.text(text)
    assert torch.equal(encoded, expected)
    assert options.keys() - {TAG} == expected_options.keys()
    assert torch.equal(options["pooled_output"], expected_options["pooled_output"])
    vanilla = graph.sample(graph.model, graph.prompt(text), steps=1)
    assert torch.equal(vanilla, graph.sample(graph.model, graph.text(text), steps=1))


def test_conditioning_of_another_node_is_tagged(graph):
    inputs = {"width": 512, "height": 768, "crop_w": 8, "target_width": 640, "target_height": 512}
    texts = {"text_g": PROMPT, "text_l": "a hat"}
    given = call(sdxl_nodes.CLIPTextEncodeSDXL, clip=graph.clip, **inputs, **texts)[0]
    [[encoded, options]] = graph.prompt(PROMPT, conditioning=given)
    assert encoded is given[0][0] and TAG not in given[0][1]
    assert {name: value for name, value in options.items() if name != TAG} == given[0][1]
    assert options[TAG].positions(graph.reference("hat").concept_tokens) == [HAT]


@pytest.fixture
def clip_with_embedding(tiny_model, tmp_path):
    """A text encoder with an embedding of two vectors named "beret"."""
    vectors = {"clip_l": torch.ones(2, 32), "clip_g": torch.ones(2, 48)}
    safetensors.torch.save_file(vectors, tmp_path / "beret.safetensors")
    return tiny_model.load_clip("sdxl", 0, embedding_directory=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "concept", "expected"),
    [
        (PROMPT, "hat", [HAT]),
        (PROMPT, "scarf", [SCARF]),
        (PROMPT, "Hat", [HAT]),
        (PROMPT, "a scarf", [SCARF - 1, SCARF]),
        (PROMPT, "hat scarf", []),
        ("a boy wearing a (hat:1.2) and a ((scarf))", "scarf", [SCARF]),
        ("a hat, a red hat and a hatter", "hat", [2, 6]),
        ("a unicyclist", "unicyclist", [2, 3, 4, 5]),
        ("and " * 74 + "red hat", "red hat", [75, 78]),
        ("and " * 75 + "hat", "hat", [78]),
        ("a embedding:beret hat", "hat", [4]),
        ("a embedding:beret hat", "embedding:beret", [2, 3]),
        ("a embedding:beret hat", "embedding:beret hat", [2, 3, 4]),
    ],
)
def test_positions_of_concepts(graph, clip_with_embedding, text, concept, expected):
    [[_, options]] = graph.run("MagicFacePrompt", clip=clip_with_embedding, text=text)[0]
    reference = graph.reference(concept, clip=clip_with_embedding)
    assert options[TAG].positions(reference.concept_tokens) == expected


def test_the_tag_passes_through_conditioning_nodes(graph):
    tagged = graph.prompt()
    ways = {
        "ConditioningCombine": {"conditioning_1": tagged, "conditioning_2": graph.text()},
        "ConditioningSetArea": {"conditioning": tagged, "width": 64, "height": 64},
        "ConditioningSetMask": {"conditioning": tagged, "mask": torch.ones(1, 8, 8), "set_cond_area": "default"},
        "ConditioningSetTimestepRange": {"conditioning": tagged, "start": 0.0, "end": 0.5},
        "ConditioningConcat": {"conditioning_to": tagged, "conditioning_from": graph.text()},
        "ConditioningAverage": {"conditioning_to": tagged, "conditioning_from": graph.text()},
    }
    for name, inputs in ways.items():
        assert call(getattr(core_nodes, name), **inputs)[0][0][1][TAG] == tagged[0][1][TAG], name


def test_encoding_many_views_shows_progress(graph, monkeypatch):
    """Each view's latent also equals, bit for bit, the latent of that view encoded alone."""
    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: shown.append((value, total)))
    views = picture(4, views=3)
    together = graph.reference("hat", image=views)
    assert shown[-1] == (3, 3) and shown[0] == (1, 3)
    alone = [graph.reference("hat", image=views[number : number + 1]).latents for number in range(3)]
    assert torch.equal(together.latents, torch.cat(alone))
