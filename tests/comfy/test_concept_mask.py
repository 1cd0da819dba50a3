"""MagicFace Mask from Words on a real ComfyUI."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

from devtools.tiny_pack.alive import left_over
from lab.portraits import draw_portrait

from .graph import picture

pytestmark = pytest.mark.usefixtures("as_node")

HAT = 5  # the position of this word in CAPTION
CAPTION = "a boy wearing a red hat and a scarf"
DRAWN_CAPTION = "a drawing of a person with a face, hair and a shirt wearing a hat and a scarf"


def node_inputs(graph, **inputs):
    given = {"model": graph.model, "clip": graph.clip, "vae": graph.vae, "image": picture(1), "caption": CAPTION}
    return {**given, "concept": "hat", "size": 128, **inputs}


def masks(graph, **inputs):
    return graph.run("MagicFaceConceptMask", **node_inputs(graph, **inputs))[0]


def drawing(number, **inputs):
    """A drawing as an image, and its parts' exact masks."""
    portrait = draw_portrait("evaluation", number, worn=["hat", "scarf"], **({"style": "flat"} | inputs))
    image = torch.from_numpy(portrait.picture.astype(np.float32) / 255)[None]
    return image, {part: torch.from_numpy(mask) for part, mask in portrait.masks.items()}


@pytest.fixture
def drawn(graph_of):
    """The graph of the trained model."""
    return graph_of("portraits")


def maps_of(graph, model=None):
    """What decides the mask, before the threshold: with random weights masks can be all or nothing."""
    module = graph.pack.sampling.references.concept_mask
    encoded = graph.reference("hat", caption=CAPTION)
    model = model or graph.model
    blocks = module.concept_mask_blocks("auto", module.layout_of(module.unet_of(model)))
    reading = module.Reading([HAT], blocks, module.LEVELS, module.NOISES, module.SeededNoise(0))
    return torch.cat(module.word_maps(model, encoded, reading))


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "inpaint", "refiner", "unclip"])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (101, 173)])
def test_masks_in_every_family_and_shape(graph_of, family, height, width):
    graph = graph_of(family)
    image = torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(1))
    output = graph.run("MagicFaceConceptMask", **node_inputs(graph, image=image, concept="red hat"))
    assert output[0].shape == (2, height, width) and output[0].dtype is torch.float32
    assert set(output[0].unique().tolist()) <= {0.0, 1.0} and output[0].flatten(1).any(1).all()
    assert len(output.ui.as_dict()["images"]) == 2


@pytest.mark.parametrize("number", range(4))
def test_parts_of_drawings_are_found(drawn, number):
    image, parts = drawing(number)
    overlaps = []
    for part in ("hat", "scarf", "shirt", "face"):
        found = masks(drawn, image=image, caption=DRAWN_CAPTION, concept=part, size=256)[0].bool()
        overlaps.append(float((found & parts[part]).sum() / (found | parts[part]).sum()))
    assert np.mean(overlaps) > 0.6, overlaps


def test_a_mask_is_always_the_same_and_random_state_stays(drawn):
    image, _ = drawing(5)
    inputs = {"image": image, "caption": DRAWN_CAPTION, "size": 256}
    torch.manual_seed(1)
    first = masks(drawn, **inputs)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(masks(drawn, **inputs), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_gives_what_each_picture_gives(drawn):
    image = torch.cat([drawing(number)[0] for number in range(3)])
    inputs = {"caption": DRAWN_CAPTION, "concept": "scarf", "size": 256}
    together = masks(drawn, image=image, **inputs)
    assert torch.equal(together, torch.cat([masks(drawn, image=one, **inputs) for one in image.split(1)]))
    assert not torch.equal(together[0], together[1])


def test_a_lower_threshold_takes_more(drawn):
    image, _ = drawing(5)
    inputs = {"image": image, "caption": DRAWN_CAPTION, "size": 256}
    shares = [float(masks(drawn, threshold=level, **inputs).mean()) for level in (0.1, 0.25, 0.6)]
    assert shares[0] > shares[1] > shares[2] > 0
    assert not torch.equal(masks(drawn, edge_px=0, **inputs), masks(drawn, **inputs))
    assert not torch.equal(masks(drawn, blocks="middle", **inputs), masks(drawn, **inputs))


def test_a_coarse_map_takes_the_edge_of_the_picture(graph):
    """Left half red, right half blue; the map says so with an edge that is eight pixels off and blurred."""
    references = graph.pack.sampling.references
    drawn = torch.zeros(1, 3, 128, 192)
    drawn[:, 0, :, :88], drawn[:, 2, :, 88:] = 1.0, 1.0
    coarse = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]).expand(1, 1, 4, 6)

    def mask(reach_px, size):
        return references.concept_mask.above(references.edges.fit_to_edges(drawn, coarse, reach_px, size), 0.5)[0]

    columns = torch.arange(192)
    assert torch.equal(mask(48, (128, 192)), (columns < 88).float().expand(128, 192))
    assert torch.equal(mask(0, (128, 192)), (columns < 96).float().expand(128, 192))
    enlarged = mask(24, (64, 96))
    assert torch.equal(enlarged[:, (columns - 88).abs() > 2], mask(48, (128, 192))[:, (columns - 88).abs() > 2])


@pytest.mark.parametrize("reach_px", [1, 2, 5, 24, 127, 128])
def test_any_reach_fits_any_size(graph, reach_px):
    """A map without edges stays, and the neighbourhoods may be larger than the picture."""
    image = picture(1, views=2).movedim(-1, 1)
    even = torch.full((2, 3, 4, 4), 0.5)
    fitted = graph.pack.sampling.references.edges.fit_to_edges(image, even, reach_px, (64, 128))
    torch.testing.assert_close(fitted, torch.full((2, 3, *image.shape[-2:]), 0.5), rtol=0, atol=1e-3)


def test_alpha_does_not_matter(drawn):
    image, _ = drawing(3)
    inputs = {"caption": DRAWN_CAPTION, "size": 256}
    with_alpha = torch.cat([image, torch.zeros(*image.shape[:3], 1)], dim=-1)
    assert torch.equal(masks(drawn, image=with_alpha, **inputs), masks(drawn, image=image, **inputs))


# Other nodes


def test_patches_of_other_nodes_do_not_act(graph):
    """Attention patches, wrappers, and MagicFace itself on the model: the maps are those of the plain model."""
    plain = maps_of(graph)
    patched = graph.model.clone()
    patched.set_model_attn1_patch(lambda q, k, v, extra: (q * 3, k, v))
    patched.set_model_attn2_replace(lambda q, k, v, extra: q * 0, "input", 5, 0)
    patched.set_model_unet_function_wrapper(lambda *_: pytest.fail("called"))
    assert torch.equal(maps_of(graph, patched), plain)
    assert torch.equal(maps_of(graph, graph.apply(graph.model, *graph.two_references())), plain)


def test_a_lora_acts(graph):
    plain = maps_of(graph)
    key = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    patched = graph.model.clone()
    assert patched.add_patches({key: ("diff", (torch.ones_like(comfy.utils.get_attr(patched.model, key)),))}, 1.0)
    assert not torch.equal(maps_of(graph, patched), plain)
    assert torch.equal(maps_of(graph), plain)


# Nothing is left


def options_of(graph):
    options = graph.model.model_options
    return {**options, "transformer_options": dict(options["transformer_options"])}


def assert_nothing_left(graph, options):
    assert not left_over()
    assert graph.model.model.current_patcher is None
    assert graph.model.model_options == options and not graph.model.wrappers and not graph.model.hook_patches_backup


def test_nothing_is_left_on_the_model(graph):
    options = {
        **graph.model.model_options,
        "transformer_options": dict(graph.model.model_options["transformer_options"]),
    }
    before = graph.sample(graph.model)
    masks(graph)
    assert_nothing_left(graph, options)
    assert torch.equal(graph.sample(graph.model), before)


@pytest.mark.parametrize("updates", [1, 2, 4])
def test_cancel_ends_it_and_leaves_nothing(graph, monkeypatch, updates):
    """The user cancels after so many steps of the progress bars: one of encoding, then one for each UNet call."""
    options = {
        **graph.model.model_options,
        "transformer_options": dict(graph.model.model_options["transformer_options"]),
    }
    expected, made = maps_of(graph), []

    def update(bar, steps):
        made.append(steps)
        comfy.model_management.interrupt_current_processing(len(made) == updates)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update", update)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        masks(graph, image=picture(1, views=2))
    comfy.model_management.interrupt_current_processing(False)
    assert len(made) == updates
    assert_nothing_left(graph, options)
    monkeypatch.undo()
    assert torch.equal(maps_of(graph), expected)


def test_progress_is_shown(graph, monkeypatch):
    """Of both pictures: one step for encoding, then one for each UNet call."""
    made = []
    monkeypatch.setattr(comfy.utils.ProgressBar, "update", lambda bar, steps: made.append((bar.total, steps)))
    masks(graph, image=picture(1, views=2))
    levels = len(graph.pack.sampling.references.concept_mask.LEVELS)
    assert made == [(2, 1)] * 2 + [(2 * levels, 1)] * 2 * levels


# Errors


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"concept": "glasses"}, "concept: 'glasses' is not in the caption, whose words are a, boy, wearing, a, red"),
        ({"concept": "hats"}, "did you mean 'hat'"),
        ({"concept": " "}, "concept: ' ' has no words"),
        ({"caption": ""}, "caption: is empty"),
        ({"vae": None}, "vae: is empty"),
        ({"clip": None}, "clip: is empty"),
        ({"size": 32}, "size: is 32"),
        ({"threshold": 1.5}, "threshold: is 1.5"),
        ({"edge_px": -1}, "edge_px: is -1"),
        ({"blocks": "nowhere"}, "blocks: no block 'nowhere'"),
        ({"image": torch.zeros(1, 8, 8, 1)}, "image: expected pictures"),
        ({"threshold": 1.0, "edge_px": 0}, "concept: 'hat' was found nowhere in picture 1 of 1 at a threshold of 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_errors_name_node_and_input(graph, inputs, message):
    with pytest.raises(ValueError) as error:
        masks(graph, **inputs)
    assert str(error.value).startswith("MagicFaceConceptMask: ") and message in str(error.value)


def test_parts_of_another_checkpoint_are_refused(graph_of):
    graph, other = graph_of("sdxl"), graph_of("sd1")
    with pytest.raises(ValueError, match=r"MagicFaceConceptMask: clip: the caption of 'hat' was encoded 32 wide and"):
        masks(graph, clip=other.clip)


def test_a_model_that_breaks_down_is_named(graph, monkeypatch):
    reading = graph.pack.sampling.references.map_reading
    cross_attention_map = reading.cross_attention_map
    monkeypatch.setattr(reading, "cross_attention_map", lambda *given: cross_attention_map(*given) * float("nan"))
    with pytest.raises(ValueError, match="MagicFaceConceptMask: model: its attention has values that are not finite"):
        masks(graph)


# What it shows


def test_the_mask_is_shown_over_the_picture(drawn):
    image, _ = drawing(1)
    output = drawn.run("MagicFaceConceptMask", **node_inputs(drawn, image=image, caption=DRAWN_CAPTION, size=256))
    (shown,) = output.ui.as_dict()["images"]
    file = Path(folder_paths.get_temp_directory(), shown["subfolder"], shown["filename"])
    pixels = torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).astype(np.float32) / 255)
    inside = output[0][0].bool()
    outside = pixels[~inside]
    assert pixels.shape == image[0].shape
    assert (outside.amax(1) - outside.amin(1)).max() < 0.01  # grey
    tint = (pixels[inside].amax(1) - pixels[inside].amin(1)).mean()
    assert tint > 0.1


def test_the_mask_fits_a_reference(drawn):
    image, _ = drawing(1)
    found = masks(drawn, image=image, caption=DRAWN_CAPTION, size=256)
    reference = drawn.reference("hat", image=image, mask=found, caption=DRAWN_CAPTION, size=256)
    assert torch.equal(reference.masks, found)
