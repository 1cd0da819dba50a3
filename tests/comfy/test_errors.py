"""Bad input is refused before the UNet runs, in words that name node and input, what was given and what to do."""

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
    """A small model of another kind."""
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
    """A text encoder of another kind, as far as its tokeniser."""
    clip = graph.clip.clone()
    clip.tokenizer = comfy.text_encoders.flux.FluxTokenizer()
    return clip


def refer(**inputs):
    return lambda graph: graph.reference(**inputs)


def weigh(**inputs):
    return lambda graph: graph.weighted(graph.reference(), **inputs)


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
    (refer(caption=""), REFERENCE, "caption", "empty", "say what the picture shows"),
    (refer(caption=" \n"), REFERENCE, "caption", "empty", "say what the picture shows"),
    (refer(concept="", caption="a hat"), REFERENCE, "concept", "''", "give the phrase"),
    (refer(concept="  ", caption="a hat"), REFERENCE, "concept", "'  '", "give the phrase"),
    (refer(mask=torch.zeros(1, 128, 128)), REFERENCE, "mask", "empty", "mark the concept", "unconnected"),
    (
        refer(image=picture(1, 160, 96), mask=ZEROS_OF_LOAD_IMAGE),
        *(REFERENCE, "mask", "empty", "LoadImage", "without transparency", "draw a mask"),
    ),
    (
        refer(image=picture(1, views=2), mask=torch.cat([box(128, 128, 0, 0, 9, 9), torch.zeros(1, 128, 128)])),
        *(REFERENCE, "mask", "empty for picture 2 of 2"),
    ),
    (refer(mask=torch.ones(1, 128, 96)), REFERENCE, "mask", "96x128", "128x128", "drawn on this picture"),
    (refer(mask=with_masks(2)), REFERENCE, "mask", "2 for 1 picture", "each picture its own mask"),
    (refer(mask=with_masks(3)), REFERENCE, "mask", "3 for 1 picture", "Combine Masks", "Repeat Image Batch (amount 3)"),
    (
        refer(image=picture(1, views=2), mask=with_masks(1)),
        *(REFERENCE, "mask", "1 for 2 pictures", "Convert Mask to Image", "Repeat Image Batch (amount 2)"),
    ),
    (refer(mask=torch.ones(1, 128, 128, 3)), REFERENCE, "mask", "(1, 128, 128, 3)", "Convert Image to Mask"),
    (refer(mask=torch.full((1, 128, 128), 8 / 255)), REFERENCE, "mask", "nearly empty", "0.031 (8 of 255)", "0.08"),
    (
        refer(mask=box(128, 128, 0, 0, 9, 9) / 255 + box(128, 128, 50, 50, 60, 60) * 2 / 255),
        *(REFERENCE, "mask", "nearly empty", "(2 of 255)", "labels", "choose one"),
    ),
    (refer(image=picture(1, views=3), mask=with_masks(2)), REFERENCE, "mask", "2 for 3 pictures", "its own mask"),
    (refer(mask=not_a_number((1, 128, 128))), REFERENCE, "mask", "not finite", "check the node it comes from"),
    (refer(mask=torch.full((1, 128, 128), 2.0)), REFERENCE, "mask", "outside 0..1", "check the node it comes from"),
    (refer(image=not_a_number((1, 128, 128, 3))), REFERENCE, "image", "not finite", "check the node it comes from"),
    (refer(image=torch.zeros(1, 128, 128, 3, dtype=torch.uint8)), REFERENCE, "image", "uint8", "from 0 to 1"),
    (refer(image=torch.zeros(0, 128, 128, 3)), REFERENCE, "image", "(0, 128, 128, 3)", "(views, height, width, 3)"),
    (refer(image=torch.zeros(1, 128, 128)), REFERENCE, "image", "(1, 128, 128)", "(views, height, width, 3)"),
    (refer(size=-64), REFERENCE, "size", "-64", "from 64 to 4096"),
    (refer(size=10000), REFERENCE, "size", "10000", "from 64 to 4096"),
    (lambda graph: graph.reference(clip=t5(graph)), REFERENCE, "clip", "t5xxl", "SD 1.x, SD 2.x or SDXL"),
    (refer(clip=None), REFERENCE, "clip", "empty", "Load CLIP"),
    (refer(vae=None), REFERENCE, "vae", "empty", "Load VAE"),
    # Mask weight
    (weigh(weight=NAN), WEIGHT, "weight", "nan", "from 0 to 10"),
    (weigh(weight=INF), WEIGHT, "weight", "inf", "from 0 to 10"),
    (weigh(weight=-0.5), WEIGHT, "weight", "-0.5", "from 0 to 10"),
    (weigh(weight=10.5), WEIGHT, "weight", "10.5", "from 0 to 10"),
    (weigh(injection_weight=NAN), WEIGHT, "injection_weight", "nan", "from 0 to 10"),
    (weigh(injection_weight=-0.5), WEIGHT, "injection_weight", "-0.5", "from 0 to 10"),
    (weigh(grow_px=600), WEIGHT, "grow_px", "600", "from -512 to 512"),
    (weigh(feather_px=-1), WEIGHT, "feather_px", "-1", "from 0 to 512"),
    (weigh(resize="bicubic"), WEIGHT, "resize", "'bicubic'", "nearest or area"),
    (weigh(invert=True), WEIGHT, "invert", "the mask of picture 1", "do not invert"),
    (
        lambda graph: graph.weighted(graph.reference(mask=box(128, 128, 0, 0, 20, 20)), grow_px=-30),
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
    (schedule(keep_mb=-1), SCHEDULE, "keep_mb", "-1", "0 for no cache"),
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
    # Preview
    (
        lambda graph: graph.run(PREVIEW, latent={"samples": torch.rand(1, 4, 16, 16)}),
        *(PREVIEW, "latent", "no run", "sample it again"),
    ),
    (
        lambda graph: graph.run(PREVIEW, latent={"samples": torch.rand(1, 16, 2, 16, 16)}),
        *(PREVIEW, "latent", "(1, 16, 2, 16, 16)", "image sampler"),
    ),
]


@pytest.fixture
def unet_calls(graph):
    """A list with an entry for each time that the graph's UNet runs, for references too."""
    calls = []
    handle = graph.model.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(None))
    yield calls
    handle.remove()


def assert_says(error, node, input_name, *words):
    message = str(error.value)
    assert message.startswith(f"{node}: ")
    for word in (input_name, *words):
        assert word in message, f"{word!r} is not in: {message}"


@pytest.mark.parametrize("row", AT_THE_NODE, ids=lambda row: "-".join(row[1:4]))
def test_bad_input_is_refused_at_its_node(graph, unet_calls, row):
    action, *says = row
    with pytest.raises(ValueError) as error:
        action(graph)
    assert_says(error, *says)
    assert unet_calls == []


def test_text_encoder_of_another_family(graph, graph_of, unet_calls):
    foreign = graph_of("sd1").reference()
    with pytest.raises(ValueError) as error:
        graph.apply(graph.model, graph.reference(), foreign)
    assert_says(error, APPLY, "references", "'hat'", "32 wide", "reads 80", "CLIP of the same checkpoint")
    assert unet_calls == []


def test_segmentation_blocks_at_full_size(graph_of):
    graph = graph_of("sd1")
    with pytest.raises(ValueError) as error:
        graph.apply(graph.model, graph.reference(), schedule=graph.schedule(segmentation_blocks="input.1-2"))
    assert_says(error, APPLY, "segmentation_blocks", "'input.1-2'", "'auto'")


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
    with pytest.raises(ValueError) as error:
        graph.sample(model, given)
    assert_says(error, *says)
    assert unet_calls == []
    graph.sample(model, graph.prompt(), steps=1)
    assert len(unet_calls) == 2  # the references, and the prompt with its negative


def test_a_concept_that_one_of_several_prompts_names(graph, unet_calls):
    """All prompts together must name each concept, not each of them."""
    both = call(
        core_nodes.ConditioningCombine, conditioning_1=graph.prompt("a hat"), conditioning_2=graph.prompt("a scarf")
    )[0]
    model = graph.apply(graph.model, graph.reference("hat"), graph.reference("scarf", 2))
    graph.sample(model, both, steps=1)
    assert unet_calls
    with pytest.raises(ValueError) as error:
        graph.sample(model, graph.prompt("a hat"), steps=1)
    assert_says(error, REFERENCE, "concept", "'scarf'", "a, hat")


@pytest.mark.parametrize(("step", "given"), [(5, "5"), (-4, "-4")])
def test_a_step_that_was_not_sampled(graph, step, given):
    latent = {"samples": graph.sample(graph.apply(graph.model, graph.reference()))}
    with pytest.raises(ValueError) as error:
        graph.run(PREVIEW, latent=latent, step=step)
    assert_says(error, PREVIEW, "step", given, "0 to 2")


def test_pictures_that_are_not_the_latents_own(graph):
    latent = {"samples": graph.sample(graph.apply(graph.model, graph.reference()), batch=3)}
    with pytest.raises(ValueError) as error:
        graph.run(PREVIEW, latent=latent, image=picture(1, views=2))
    assert_says(error, PREVIEW, "image", "2 pictures for 3 latents", "one for each")
