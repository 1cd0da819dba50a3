"""Bad input is refused before the UNet runs; the message names node and input, what was given and what to do."""

from __future__ import annotations

import math
from dataclasses import replace

import comfy.model_patcher
import comfy.supported_models
import comfy.text_encoders.flux
import pytest
import torch

import nodes as core_nodes

from .graph import box, call, picture

pytestmark = pytest.mark.usefixtures("as_node")

NAN, INF = math.nan, math.inf
ZEROS_OF_LOAD_IMAGE = torch.zeros(1, 64, 64)
SDXL_BLOCKS = ("input.4 (1 deep)", "input.8 (2 deep)", "middle.0 (2 deep)", "output.5 (1 deep)", "auto", "finest")


def flux(_):
    """A small model that is not a UNet."""
    sizes = {"hidden_size": 32, "num_heads": 4, "depth": 1, "depth_single_blocks": 1, "axes_dim": [2, 2, 4]}
    config = comfy.supported_models.Flux(
        {
            **{"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 8},
            **{"context_in_dim": 8, "mlp_ratio": 2.0, "theta": 100, "qkv_bias": True, "guidance_embed": False},
            **sizes,
            "txt_ids_dims": [],
        }
    )
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(config.get_model({}, "", device=cpu), load_device=cpu, offload_device=cpu)


def t5(graph):
    """The tokeniser of a text encoder that is not CLIP."""
    clip = graph.clip.clone()
    clip.tokenizer = comfy.text_encoders.flux.FluxTokenizer()
    return clip


def reference(**inputs):
    return lambda graph: graph.reference(**inputs)


def mask_weight(**inputs):
    return lambda graph: graph.mask_weight(graph.reference(), **inputs)


def schedule(**inputs):
    return lambda graph: graph.schedule(**inputs)


def apply(**inputs):
    return lambda graph: graph.apply(graph.model, graph.reference(), schedule=graph.schedule(**inputs))


def with_masks(count):
    return torch.cat([box(128, 128, 0, 0, 64, 64)] * count)


def not_a_number(shape):
    image = torch.zeros(shape)
    image.view(-1)[5] = NAN
    return image


REFERENCE, WEIGHT, SCHEDULE, APPLY = "MagicFaceReference", "MagicFaceMaskWeight", "MagicFaceSchedule", "MagicFaceApply"
PROMPT_NODE, PREVIEW = "MagicFacePrompt", "MagicFaceSegmentationPreview"

AT_THE_NODE = [
    # Reference
    (reference(caption=""), REFERENCE, "caption", "empty", "say what the picture shows"),
    (reference(caption=" \n"), REFERENCE, "caption", "empty", "say what the picture shows"),
    (reference(concept="", caption="a hat"), REFERENCE, "concept", "''", "give the phrase"),
    (reference(concept="  ", caption="a hat"), REFERENCE, "concept", "'  '", "give the phrase"),
    (reference(mask=torch.zeros(1, 128, 128)), REFERENCE, "mask", "empty", "mark the concept", "unconnected"),
    (
        reference(image=picture(1, 160, 96), mask=ZEROS_OF_LOAD_IMAGE),
        *(REFERENCE, "mask", "empty", "LoadImage", "without transparency", "draw a mask"),
    ),
    (
        reference(image=picture(1, views=2), mask=torch.cat([box(128, 128, 0, 0, 9, 9), torch.zeros(1, 128, 128)])),
        *(REFERENCE, "mask", "empty for picture 2 of 2"),
    ),
    (reference(mask=torch.ones(1, 128, 96)), REFERENCE, "mask", "96x128", "128x128", "drawn on this picture"),
    (reference(mask=with_masks(2)), REFERENCE, "mask", "2 for 1 picture", "each picture its own mask"),
    (
        reference(mask=with_masks(3)),
        REFERENCE,
        "mask",
        "3 for 1 picture",
        "Combine Masks",
        "Repeat Image Batch (amount 3)",
    ),
    (
        reference(image=picture(1, views=2), mask=with_masks(1)),
        *(REFERENCE, "mask", "1 for 2 pictures", "Convert Mask to Image", "Repeat Image Batch (amount 2)"),
    ),
    (reference(mask=torch.ones(1, 128, 128, 3)), REFERENCE, "mask", "(1, 128, 128, 3)", "Convert Image to Mask"),
    (reference(mask=torch.full((1, 128, 128), 8 / 255)), REFERENCE, "mask", "nearly empty", "0.031 (8 of 255)", "0.08"),
    (
        reference(mask=box(128, 128, 0, 0, 9, 9) / 255 + box(128, 128, 50, 50, 60, 60) * 2 / 255),
        *(REFERENCE, "mask", "nearly empty", "(2 of 255)", "labels", "choose one"),
    ),
    (reference(image=picture(1, views=3), mask=with_masks(2)), REFERENCE, "mask", "2 for 3 pictures", "its own mask"),
    (reference(mask=not_a_number((1, 128, 128))), REFERENCE, "mask", "not finite", "check the node it comes from"),
    (reference(mask=torch.full((1, 128, 128), 2.0)), REFERENCE, "mask", "outside 0..1", "check the node it comes from"),
    (reference(image=not_a_number((1, 128, 128, 3))), REFERENCE, "image", "not finite", "check the node it comes from"),
    (reference(image=torch.zeros(1, 128, 128, 3, dtype=torch.uint8)), REFERENCE, "image", "uint8", "from 0 to 1"),
    (reference(image=torch.zeros(0, 128, 128, 3)), REFERENCE, "image", "(0, 128, 128, 3)", "(views, height, width, 3)"),
    (reference(image=torch.zeros(1, 128, 128)), REFERENCE, "image", "(1, 128, 128)", "(views, height, width, 3)"),
    (reference(size=-64), REFERENCE, "size", "-64", "from 64 to 4096"),
    (reference(size=10000), REFERENCE, "size", "10000", "from 64 to 4096"),
    (lambda graph: graph.reference(clip=t5(graph)), REFERENCE, "clip", "t5xxl", "SD 1.x, SD 2.x or SDXL"),
    (reference(clip=None), REFERENCE, "clip", "empty", "Load CLIP"),
    (reference(vae=None), REFERENCE, "vae", "empty", "Load VAE"),
    # Mask weight
    (mask_weight(weight=NAN), WEIGHT, "weight", "nan", "from 0 to 10"),
    (mask_weight(weight=INF), WEIGHT, "weight", "inf", "from 0 to 10"),
    (mask_weight(weight=-0.5), WEIGHT, "weight", "-0.5", "from 0 to 10"),
    (mask_weight(weight=10.5), WEIGHT, "weight", "10.5", "from 0 to 10"),
    (mask_weight(injection_weight=NAN), WEIGHT, "injection_weight", "nan", "from 0 to 10"),
    (mask_weight(injection_weight=-0.5), WEIGHT, "injection_weight", "-0.5", "from 0 to 10"),
    (mask_weight(grow_px=600), WEIGHT, "grow_px", "600", "from -512 to 512"),
    (mask_weight(feather_px=-1), WEIGHT, "feather_px", "-1", "from 0 to 512"),
    (mask_weight(resize="bicubic"), WEIGHT, "resize", "'bicubic'", "nearest or area"),
    (mask_weight(invert=True), WEIGHT, "invert", "the mask of picture 1", "do not invert"),
    (
        lambda graph: graph.mask_weight(graph.reference(mask=box(128, 128, 0, 0, 20, 20)), grow_px=-30),
        *(WEIGHT, "grow_px", "-30", "nothing of the mask", "shrink it less"),
    ),
    # Prompt
    (lambda graph: graph.run(PROMPT_NODE, clip=None, text="a hat"), PROMPT_NODE, "clip", "empty", "Load CLIP"),
    (lambda graph: graph.run(PROMPT_NODE, clip=t5(graph), text="a hat"), PROMPT_NODE, "clip", "t5xxl", "SDXL"),
    (
        lambda graph: graph.prompt("a hat " * 50, conditioning=graph.text("a hat")),
        *(PROMPT_NODE, "conditioning", "77 tokens", "154", "give the text that"),
    ),
    # Schedule
    (schedule(switch=NAN), SCHEDULE, "switch", "nan", "from 0 to 1"),
    (schedule(start=-0.1), SCHEDULE, "start", "-0.1", "from 0 to 1"),
    (schedule(end=1.5), SCHEDULE, "end", "1.5", "from 0 to 1"),
    (schedule(switch=0.2, start=0.3), SCHEDULE, "switch", "0.2", "0.3..1", "move it between"),
    (schedule(switch=0.9, end=0.8), SCHEDULE, "switch", "0.9", "0..0.8", "move it between"),
    (schedule(token_suppression=INF), SCHEDULE, "token_suppression", "inf", "from 0 to 1"),
    (schedule(foreground="maybe"), SCHEDULE, "foreground", "'maybe'", "auto, always or never"),
    (schedule(injection_blocks=" "), SCHEDULE, "injection_blocks", "empty", "output.3-5"),
    (schedule(segmentation_blocks=""), SCHEDULE, "segmentation_blocks", "empty", "auto"),
    (schedule(keep_mb=-2), SCHEDULE, "keep_mb", "-2", "-1 for auto", "0 for no cache"),
    (schedule(keep_on="disk"), SCHEDULE, "keep_on", "'disk'", "main memory or device"),
    # Apply
    (lambda graph: graph.apply(graph.model), APPLY, "references", "0 connected", "1 to 10"),
    (lambda graph: graph.apply(graph.model, *[graph.reference()] * 11), APPLY, "references", "11 connected", "1 to 10"),
    (apply(injection_blocks="output.9"), APPLY, "injection_blocks", "'output.9'", *SDXL_BLOCKS),
    (apply(injection_blocks="auto, hat"), APPLY, "injection_blocks", "'hat'", *SDXL_BLOCKS),
    (apply(segmentation_blocks="input.4.7"), APPLY, "segmentation_blocks", "'input.4.7'", *SDXL_BLOCKS),
    (apply(segmentation_blocks="output.5-3"), APPLY, "segmentation_blocks", "'output.5-3'", *SDXL_BLOCKS),
    (lambda graph: graph.apply(flux(graph), graph.reference()), APPLY, "model", "Flux", "SD 1.x, SD 2.x or SDXL"),
    (
        lambda graph: graph.apply(graph.model, replace(graph.reference(), latents=torch.zeros(1, 16, 16, 16))),
        *(APPLY, "references", "'hat'", "16 channels", "has 4", "VAE of the same checkpoint"),
    ),
]


@pytest.fixture
def unet_calls(graph):
    """A list that gets an entry for each UNet call, reference passes included."""
    calls = []
    handle = graph.model.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(None))
    yield calls
    handle.remove()


def assert_message(error, node, input_name, *words):
    message = str(error.value)
    assert message.startswith(f"{node}: ")
    for word in (input_name, *words):
        assert word in message, f"{word!r} is not in: {message}"


@pytest.mark.parametrize("row", AT_THE_NODE, ids=lambda row: "-".join(row[1:4]))
def test_bad_input_is_refused_at_its_node(graph, unet_calls, row):
    action, *says = row
    with pytest.raises(ValueError) as error:
        action(graph)
    assert_message(error, *says)
    assert unet_calls == []


def test_a_text_encoder_of_another_family_is_refused(graph, graph_of, unet_calls):
    foreign = graph_of("sd1").reference()
    with pytest.raises(ValueError) as error:
        graph.apply(graph.model, graph.reference(), foreign)
    assert_message(error, APPLY, "references", "'hat'", "32 wide", "reads 80", "CLIP of the same checkpoint")
    assert unet_calls == []


def test_segmentation_blocks_at_the_latents_size_are_refused(graph_of):
    graph = graph_of("sd1")
    with pytest.raises(ValueError) as error:
        graph.apply(graph.model, graph.reference(), schedule=graph.schedule(segmentation_blocks="input.1-2"))
    assert_message(error, APPLY, "segmentation_blocks", "'input.1-2'", "'auto'")


def shortened(graph, positive):
    return [[text[:, :77], options] for text, options in positive]


@pytest.mark.parametrize(
    ("positive", "says"),
    [
        (lambda g: g.text("a boy wearing a hat"), (APPLY, "positive", "MagicFace Prompt", "encode it with")),
        (
            lambda g: g.prompt("a boy (wearing:1.2) a cap"),
            (REFERENCE, "concept", "'hat'", "a, boy, wearing, a, cap", "Write the phrase"),
        ),
        (lambda g: g.prompt(""), (REFERENCE, "concept", "'hat'", "Write the phrase")),
        (
            lambda g: shortened(g, g.prompt("a hat" + " and" * 90)),
            (PROMPT_NODE, "conditioning", "77 tokens", "154", "remove that node"),
        ),
    ],
    ids=["no MagicFacePrompt", "concept not in the prompt", "empty prompt", "shortened prompt"],
)
def test_bad_prompts_are_refused_before_the_unet_runs(graph, unet_calls, positive, says):
    model = graph.apply(graph.model, graph.reference())
    given = positive(graph)
    with pytest.raises(graph.sampling_error) as error:
        graph.sample(model, given)
    assert not isinstance(error.value, ValueError)  # which other packs may catch
    assert_message(error, *says)
    assert unet_calls == []
    graph.sample(model, graph.prompt(), steps=1)
    assert len(unet_calls) == 2  # the reference pass, and the call for both prompts


def test_a_concept_may_be_named_by_one_of_several_prompts(graph, unet_calls):
    """It is enough that one of several prompts names a concept."""
    both = call(
        core_nodes.ConditioningCombine, conditioning_1=graph.prompt("a hat"), conditioning_2=graph.prompt("a scarf")
    )[0]
    model = graph.apply(graph.model, graph.reference("hat"), graph.reference("scarf", 2))
    graph.sample(model, both, steps=1)
    assert unet_calls
    with pytest.raises(graph.sampling_error) as error:
        graph.sample(model, graph.prompt("a hat"), steps=1)
    assert_message(error, REFERENCE, "concept", "'scarf'", "a, hat")


@pytest.mark.parametrize(("step", "given"), [(5, "5"), (-4, "-4")])
def test_a_step_that_was_not_sampled_is_noted(graph, step, given):
    latent = {"samples": graph.sample(graph.apply(graph.model, graph.reference()))}
    note = graph.note(PREVIEW, latent=latent, step=step)
    assert note.startswith("step: ") and given in note and "0 to 2" in note


def test_another_number_of_pictures_than_latents_is_noted(graph):
    latent = {"samples": graph.sample(graph.apply(graph.model, graph.reference()), batch=3)}
    note = graph.note(PREVIEW, latent=latent, image=picture(1, views=2))
    assert note.startswith("image: 2 pictures for 3 latents") and "one for each" in note
