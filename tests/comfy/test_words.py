"""Where a concept's words are: in conditionings of parts, of other encoders, in other spellings; or why nowhere."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

import nodes as core_nodes

from .graph import HAT, PROMPT, SCARF, call

pytestmark = pytest.mark.usefixtures("as_node")

CHUNK = 77


def concat(to, *others):
    for other in others:
        to = call(core_nodes.ConditioningConcat, conditioning_to=to, conditioning_from=other)[0]
    return to


def found(graph, positive, *concepts):
    """The positions of each concept's words in a conditioning's only prompt, as sampling finds them."""
    [[text, options]] = positive
    prompt = graph.pack.sampling.conditioning.parts.prompt_of({**options, "cross_attn": text})
    read_tokens = graph.pack.sampling.conditioning.prompt.read_tokens
    return prompt.positions_of([read_tokens(graph.clip, concept).content for concept in concepts])


def refused(graph, positive, *references, model=None):
    """The message of a sampler that is refused before the first UNet call."""
    calls = []
    model = model or graph.model
    handle = model.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        with pytest.raises(graph.sampling_error) as error:
            graph.sample(graph.apply(model, *references), positive, steps=1)
    finally:
        handle.remove()
    assert calls == []
    return str(error.value)


# Conditionings of parts


def test_words_of_all_joined_prompts_are_known(graph):
    joined = concat(graph.prompt("a boy wearing a hat"), graph.prompt("a scarf"), graph.prompt("a red hat"))
    assert found(graph, joined, "hat", "scarf") == [[5, 2 * CHUNK + 3], [CHUNK + 2]]
    assert found(graph, joined, "hat a scarf") == [[]]  # no phrase over the seam of two prompts


def test_joined_prompts_of_several_chunks(graph):
    long = "and " * 74 + "red hat"
    joined = concat(graph.prompt("a scarf"), graph.prompt(long))
    assert found(graph, joined, "red hat", "scarf") == [[CHUNK + 75, 2 * CHUNK + 1], [2]]


def test_a_concept_in_the_second_part_only_samples(graph):
    joined = concat(graph.prompt("a boy wearing a hat"), graph.prompt("a scarf"))
    latent = graph.sample(graph.apply(graph.model, *graph.two_references()), joined)
    plain = graph.sample(graph.model, joined)
    assert (latent - plain).abs().max() > 0.1
    assert 1 in torch.stack(graph.regions_by_step(latent)[0])


def test_a_part_of_another_encoder_is_named(graph):
    joined = concat(graph.prompt("a boy wearing a hat"), graph.text("zebras wearing scarf"))
    message = refused(graph, joined, *graph.two_references())
    for words in ("MagicFaceReference: concept: 'scarf'", "Concat", "encode every part with MagicFace Prompt"):
        assert words in message


def test_a_part_of_another_encoder_leaves_the_words_of_the_first(graph):
    assert found(graph, concat(graph.prompt(), graph.text("some elephants")), "hat", "scarf") == [[HAT], [SCARF]]


@pytest.mark.parametrize("family", ["sdxl", "sd1"])
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a boy wearing BREAK a red hat and a scarf", ["a boy wearing", "a red hat and a scarf"]),
        ("a boy wearing a red hat and a scarf", ["a boy wearing", "a red hat and a scarf"]),
        ("a boy BREAK wearing a hat, BREAK a scarf", ["a boy", "wearing a hat,", "a scarf"]),
        ("and " * 80 + "BREAK a hat BREAK a scarf", ["and " * 80, "a hat", "a scarf"]),
        ("and " * 30 + "BREAK " + "and " * 60 + "hat scarf", ["and " * 30, "and " * 60 + "hat scarf"]),
        ("a (boy:1.2) BREAK a (hat:1.3) BREAK a scarf", ["a (boy:1.2)", "a (hat:1.3)", "a scarf"]),
        ("a hat BREAK BREAK a scarf", ["a hat", "", "a scarf"]),
    ],
)
def test_a_text_encoded_in_parts_by_another_node(graph_of, family, text, parts):
    """Its words are where they are in each part, whether the text says BREAK or not."""
    graph = graph_of(family)
    given = concat(*map(graph.text, parts))
    tagged = graph.prompt(text, conditioning=given)
    expected = concat(*map(graph.prompt, parts))
    assert found(graph, tagged, "hat", "scarf") == found(graph, expected, "hat", "scarf") != [[], []]


def test_a_text_cut_where_no_chunk_is_full(graph):
    """As encoders do that end a chunk at a comma."""
    words = "and " * 70
    given = concat(graph.text(words + "a boy,"), graph.text("a red hat, a scarf"))
    assert found(graph, graph.prompt(words + "a boy, a red hat, a scarf", conditioning=given), "hat", "scarf") == [
        [CHUNK + 3],
        [CHUNK + 6],
    ]


def test_parts_of_another_encoder_give_the_regions_of_our_own(graph):
    parts = ["a boy wearing", "a hat and", "a scarf"]
    model = graph.apply(graph.model, *graph.two_references())
    own = graph.sample(model, concat(*map(graph.prompt, parts)))
    given = concat(*map(graph.text, parts))
    for text in (" ".join(parts), " BREAK ".join(parts)):
        latent = graph.sample(model, graph.prompt(text, conditioning=given))
        assert torch.equal(latent, own)
        assert {0, 1} <= set(torch.stack(graph.regions_by_step(latent)[0]).flatten().tolist())


# Conditionings of other encoders


@pytest.mark.parametrize("family", ["sdxl", "sd2", "sd1", "portraits"])
@pytest.mark.parametrize(
    "encoded",
    [
        "one more boy wearing a red hat and a scarf",
        "boy wearing a hat and a scarf",
        "seven dogs run on my mat with big teeth",
        "",
        "a scarf",
    ],
)
def test_another_text_of_the_same_length_is_refused(graph_of, family, encoded):
    graph = graph_of(family)
    given = graph.text(encoded)
    message = refused(graph, graph.prompt(PROMPT, conditioning=given), *graph.two_references())
    for words in ("MagicFacePrompt: conditioning", "other words", "'hat'", "BREAK"):
        assert words in message


@pytest.mark.parametrize(
    "encoded",
    ["a boy wearing a red hat", "a boy wearing a blue hat"],
)
def test_a_prompt_language_that_changes_words(graph, encoded):
    tagged = graph.prompt("a boy wearing a [red:blue:0.5] hat", conditioning=graph.text(encoded))
    assert "prompt language" in refused(graph, tagged, graph.reference("hat"))


def test_a_prompt_language_that_takes_words_out(graph):
    """LoRA tags, and brackets that are weights."""
    text = "<lora:hat:0.8> a boy wearing a [red] hat and a scarf"
    tagged = graph.prompt(text, conditioning=graph.text("a boy wearing a red hat and a scarf"))
    assert found(graph, tagged, "red hat", "scarf") == [[5, 6], [9]]


@pytest.mark.parametrize("family", ["sdxl", "sd2", "sd1"])
@pytest.mark.parametrize("kind", ["scaled", "weights", "mixed", "clip skip"])
def test_the_same_text_in_other_numbers_is_known(graph_of, family, kind):
    """What other schemes of weights, mixing and clip skip give still has its words at their positions."""
    graph = graph_of(family)
    if kind == "scaled":
        given = [[text * 1.3, options] for text, options in graph.text(PROMPT)]
    elif kind == "weights":
        given = graph.text("a boy wearing a (hat:1.4) and a (scarf:0.7)")
    elif kind == "mixed":
        inputs = {"conditioning_to": graph.text(PROMPT), "conditioning_from": graph.text("dogs on a big green mat")}
        given = call(core_nodes.ConditioningAverage, **inputs, conditioning_to_strength=0.6)[0]
    else:
        skipped = call(core_nodes.CLIPSetLastLayer, clip=graph.clip, stop_at_clip_layer=-1 if family != "sd1" else -2)
        given = call(core_nodes.CLIPTextEncode, clip=skipped[0], text=PROMPT)[0]
    assert found(graph, graph.prompt(PROMPT, conditioning=given), "hat", "scarf") == [[HAT], [SCARF]]


@pytest.mark.parametrize("family", ["sdxl", "sd1"])
@pytest.mark.parametrize(("text", "given"), [("hat", "(hat:1.4)"), ("(hat:0.7)", "hat"), ("a hat", "a (hat:1.3)")])
def test_a_prompt_of_one_or_two_words(graph_of, family, text, given):
    graph = graph_of(family)
    tagged = graph.prompt(text, conditioning=graph.text(given))
    assert found(graph, tagged, "hat") == found(graph, graph.prompt(text), "hat") != [[]]


def test_each_of_several_conditionings_has_its_own_words(graph):
    """One of them from the text as it is, the other from another."""
    both = [*graph.text("a dog in a red house and one scarf"), *graph.text(PROMPT)]
    tags = [options[graph.pack.sampling.conditioning.prompt.TAG] for _, options in graph.prompt(conditioning=both)]
    hat = graph.reference("hat").concept_tokens
    assert [tag.positions(hat) for tag in tags] == [[], [HAT]]
    assert [tag.is_doubtful(hat) for tag in tags] == [True, False]


def test_what_is_not_known_but_not_needed_is_logged(graph, caplog):
    """A word that only one of several conditionings has, and a part of another encoder."""
    caplog.set_level("INFO")
    both = [*graph.text("a dog in a red house and one scarf"), *graph.text(PROMPT)]
    model = graph.apply(graph.model, graph.reference("hat"))
    graph.sample(model, graph.prompt(conditioning=both), steps=1)
    assert "one of the positive prompts has other words where its text in MagicFace Prompt has 'hat'" in caplog.text
    caplog.clear()
    graph.sample(model, concat(graph.prompt(), graph.text("gloomy mountains")), steps=1)
    assert "a part was joined" in caplog.text and "other words" not in caplog.text


def test_words_that_are_in_twice_are_named(graph):
    given = [[text.repeat_interleave(2, dim=1), options] for text, options in graph.text(PROMPT)]
    with pytest.raises(ValueError) as error:
        graph.prompt(PROMPT, conditioning=given)
    for words in ("MagicFacePrompt: conditioning", "154 tokens and the text 77", "twice", "negative weights"):
        assert words in str(error.value)


def test_a_clip_that_encodes_words_twice_is_named(graph):
    clip = graph.clip.clone()
    encode = clip.encode_from_tokens_scheduled
    clip.encode_from_tokens_scheduled = lambda *given: [
        [text.repeat_interleave(2, dim=1), options] for text, options in encode(*given)
    ]
    with pytest.raises(ValueError) as error:
        graph.run("MagicFacePrompt", clip=clip, text=PROMPT)
    for words in ("MagicFacePrompt: clip", "77 tokens", "154", "negative weights", "before that node"):
        assert words in str(error.value)


def test_the_clip_of_another_family_is_named_before_sampling(graph_of):
    sdxl, sd1 = graph_of("sdxl"), graph_of("sd1")
    message = refused(sdxl, sd1.prompt(), *sdxl.two_references())
    width, given = sdxl.text()[0][0].shape[-1], sd1.text()[0][0].shape[-1]
    for words in ("MagicFacePrompt: clip", "positive", f"{given} wide", f"reads {width}", "same checkpoint"):
        assert words in message
    says = f"MagicFaceApply: the sampler's negative prompt was encoded {given} wide"
    with pytest.raises(sdxl.sampling_error, match=says):
        sdxl.sample(sdxl.apply(sdxl.model, *sdxl.two_references()), sdxl.prompt(), sd1.text())


# Overlapping phrases


@pytest.mark.parametrize("order", list(permutations(["hat", "red hat", "scarf"])))
def test_the_longer_phrase_has_its_words_in_any_order_of_sockets(graph, order):
    positive = graph.prompt("a hat, a red hat and a scarf")
    expected = {"hat": [2], "red hat": [5, 6], "scarf": [9]}
    assert found(graph, positive, *order) == [expected[concept] for concept in order]


@pytest.mark.parametrize("order", list(permutations(["hat", "red hat"])))
def test_a_concept_without_a_word_of_its_own_is_named(graph, order):
    message = refused(graph, graph.prompt("a boy wearing a red hat"), *map(graph.reference, order))
    for words in ("MagicFaceReference: concept: 'hat'", "a part of 'red hat'", "words of its own"):
        assert words in message


def test_a_longer_phrase_that_is_off_takes_no_words(graph):
    off = graph.reference("red hat", weight=0.0)
    graph.sample(graph.apply(graph.model, off, graph.reference("hat")), graph.prompt("a red hat"), steps=1)


# Spellings


@pytest.mark.parametrize(
    ("text", "concept", "expected"),
    [
        ("a man\u2019s hat", "man's", [2, 3, 4, 5]),
        ("a man's hat", "man\u2019s", [2, 3]),
        ("a man's hat", "man's hat", [2, 3, 4]),
        ("a man\u2019s hat", "man's hat", [2, 3, 4, 5, 6]),
        ("a baseball-cap", "baseball cap", [2, 3, 4]),
        ("a baseball cap", "baseball-cap", [2, 3]),
        ("a witch_hat", "witch hat", [2, 3, 4]),
        ("a witch\u2013hat", "Witch Hat", [2, 3, 4]),
        ("a witch_hat", "hat", [4]),
        ("a t-shirt", "t-shirt", [2, 3, 4]),
        ("they don\u2019t", "don't", [2, 3, 4, 5]),
        ("the boys' hat", "boys hat", [2, 3, 4]),
        ("<lora:hat:0.8> a hat", "hat", [12]),
        ("a hat,<lora:hat:0.8>, a scarf", "hat", [2]),
        ("a hat <lora:hat:0.8> <lyco:red hat:1> (and a <lora:hat:1> scarf:1.2)", "hat", [2]),
        ("red <lora:x:1> hat", "red hat", [1, 10]),
    ],
)
def test_spellings_that_look_alike(graph, text, concept, expected):
    assert found(graph, graph.prompt(text), concept) == [expected]


def test_a_word_in_a_tag_alone_is_no_word(graph):
    message = refused(graph, graph.prompt("<lora:hat:0.8> a boy"), graph.reference("hat"))
    assert "'hat' is not in the positive prompt, whose words are a, boy." in message


@pytest.mark.parametrize(
    ("text", "concept", "hint"),
    [
        ("a boy wearing hats", "hat", "'hats' is in it, 'hat' is not"),
        ("a boy wearing a hat", "hats", "'hat' is in it, 'hats' is not"),
        ("a boy wearing a sombrero", "sombrerro", "'sombrero' is in it"),
    ],
)
def test_the_message_names_near_words(graph, text, concept, hint):
    assert hint in refused(graph, graph.prompt(text), graph.reference(concept))


def test_spellings_of_one_phrase_are_one_concept(graph):
    references = [graph.reference(concept) for concept in ("man's hat", "man\u2019s hat", "Man's-hat")]
    assert len({reference.concept_tokens for reference in references}) == 1
