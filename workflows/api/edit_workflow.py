"""Change the pictures, masks, captions, words, prompt, seed and any other input of a workflow in API format.

`queue_workflow.py` beside this file does the rest; nothing here talks to a server.
"""

from __future__ import annotations

import json
import math
import re
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from read_workflow import InputError, Picture, Prompt, near, note, picture


@dataclass(frozen=True)
class Upload:
    """A picture for the server, and the inputs of the node that is to load it."""

    inputs: dict[str, Any]
    picture: Picture


def change(prompt: Prompt, given: Namespace, tell: Callable[[str], None] = note) -> list[Upload]:
    """Set everything that the options give; returns the pictures to upload.

    Args:
        prompt: is changed.
        given: the options of `job_options.py`.
        tell: is called with each decision that the person who calls may not expect.
    """
    uploads = []
    pictures, masks = once(prompt, "picture", given.picture), once(prompt, "mask", given.mask)
    captions, words = once(prompt, "caption", given.caption), once(prompt, "word", given.word)
    for node_id, file in pictures.items():
        new = picture(Path(file))
        loader = loader_of(prompt, node_id, "image", "LoadImage", tell)
        uploads.append(Upload(prompt[loader]["inputs"], new))
        mask = source(prompt, node_id, "mask")
        if mask == loader and node_id not in masks and new.opaque:
            tell(f"the mask of {named(prompt, node_id)} is the transparency of {file}, which has none; see --mask")
        elif mask and mask != loader and loader not in upstream(prompt, mask) and node_id not in masks:
            tell(f"{named(prompt, node_id)} has a new picture, but still the workflow's mask; see --mask")
    for node_id, file in masks.items():
        new = picture(Path(file))
        inputs = prompt[loader_of(prompt, node_id, "mask", "LoadImageMask", tell)]["inputs"]
        if inputs.get("channel") == "alpha" and new.opaque:
            tell(f"{file} has no transparency; the mask is its red channel, not alpha")
            inputs["channel"] = "red"
        uploads.append(Upload(inputs, new))
    set_text(prompt, "caption", captions)
    set_text(prompt, "concept", words)
    if given.prompt is not None:
        for node_id in nodes_at(prompt, "MagicFacePrompt", "text"):
            prompt[node_id]["inputs"]["text"] = given.prompt
    if given.seed is not None:
        set_seed(prompt, given.seed, tell)
    for place, name, text in given.set:
        for node_id in nodes_at(prompt, place, name):
            prompt[node_id]["inputs"][name] = value_of(prompt, node_id, name, text)
    for concept in missing_words(prompt):
        tell(f"the prompt does not have the concept {concept!r}, which ends a run unless its weight is 0")
    return uploads


def missing_words(prompt: Prompt) -> list[str]:
    """The concepts that are not in any prompt, as far as can be seen without the model's tokenizer."""
    texts, concepts = (
        [node["inputs"].get(name) for node in prompt.values() if node["class_type"] == class_type]
        for class_type, name in (("MagicFacePrompt", "text"), ("MagicFaceReference", "concept"))
    )
    if not texts or not all(isinstance(text, str) for text in texts):
        return []
    known = " ".join(texts).casefold()
    return [
        concept
        for concept in dict.fromkeys(concepts)
        if isinstance(concept, str) and any(word not in known for word in re.findall(r"[a-z]+", concept.casefold()))
    ]


def set_text(prompt: Prompt, name: str, texts: dict[str, str]) -> None:
    """Set the captions or words of references, and of the nodes that find their masks by them."""
    for node_id, text in texts.items():
        prompt[node_id]["inputs"][name] = text
        mask = source(prompt, node_id, "mask")
        if mask and prompt[mask]["class_type"] == "MagicFaceConceptMask":
            prompt[mask]["inputs"][name] = text


def named(prompt: Prompt, node_id: str) -> str:
    """A node as messages name it."""
    return f"{prompt[node_id]['class_type']} (node {node_id})"


def once(prompt: Prompt, option: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    """An option's values by the reference's node."""
    values: dict[str, str] = {}
    for name, value in pairs:
        node_id = reference(prompt, name)
        if node_id in values:
            raise InputError(f"--{option} {name} is given twice")
        values[node_id] = value
    return values


def reference(prompt: Prompt, name: str) -> str:
    """The MagicFace Reference node with a concept, or with a number."""
    nodes = {
        node_id: str(node["inputs"].get("concept")).strip()
        for node_id, node in prompt.items()
        if node["class_type"] == "MagicFaceReference"
    }
    found = [node_id for node_id, concept in nodes.items() if concept == name] or [key for key in nodes if key == name]
    if not found:
        there = f"there are {', '.join(dict.fromkeys(nodes.values()))}" if nodes else "there is no MagicFaceReference"
        raise InputError(f"no concept {name!r}; {there}{near(name, nodes.values())}")
    if len(found) > 1:
        raise InputError(f"{name!r} is the concept of nodes {', '.join(found)}; give a number, as {found[0]}=...")
    return found[0]


def source(prompt: Prompt, node_id: str, name: str) -> str | None:
    """The node that an input is connected to."""
    value = prompt[node_id]["inputs"].get(name)
    linked = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in prompt
    return value[0] if linked else None


def upstream(prompt: Prompt, node_id: str) -> set[str]:
    """All nodes that a node depends on."""
    found: set[str] = set()
    todo = [node_id]
    while todo:
        current = todo.pop()
        links = {source(prompt, current, name) for name in prompt[current]["inputs"]}
        new = {link for link in links if link is not None} - found
        found |= new
        todo.extend(new)
    return found


def loader_of(prompt: Prompt, node_id: str, name: str, class_type: str, tell: Callable[[str], None]) -> str:
    """The node that loads a reference's picture or mask; a new one where it is shared or of another class."""
    old = source(prompt, node_id, name)
    same = old is not None and prompt[old]["class_type"] == class_type
    others = [key for key, node in prompt.items() if node["class_type"] == "MagicFaceReference" and key != node_id]
    if old is not None and same and not any(old in upstream(prompt, other) for other in others):
        return old
    new = next(key for key in map(str, count(1000)) if key not in prompt)
    prompt[new] = {"class_type": class_type, "inputs": {"channel": "red"} if name == "mask" else {}}
    inputs = prompt[node_id]["inputs"]
    inputs[name] = [new, 0]
    if name == "image" and same and source(prompt, node_id, "mask") == old:
        inputs["mask"] = [new, *inputs["mask"][1:]]
    if old is not None and not same:
        tell(f"the {name} of {named(prompt, node_id)} is now the given file alone, not {named(prompt, old)}")
    return new


def nodes_at(prompt: Prompt, place: str, name: str) -> list[str]:
    """The nodes of a class, or the one with a number, which all must have an input."""
    found = [node_id for node_id, node in prompt.items() if place in (node_id, node["class_type"])]
    if not found:
        raise InputError(f"the workflow has no {place}{near(place, [node['class_type'] for node in prompt.values()])}")
    for node_id in found:
        inputs = prompt[node_id]["inputs"]
        if name not in inputs:
            there = f"there are {', '.join(inputs)}" if inputs else "there are none"
            raise InputError(f"{prompt[node_id]['class_type']} has no input {name!r}; {there}{near(name, inputs)}")
    return found


def set_seed(prompt: Prompt, seed: int, tell: Callable[[str], None]) -> None:
    """Set the seed of every sampler and noise node. The noise of the references has a seed of its own, which stays."""
    done, linked = set(), []
    for node_id, node in prompt.items():
        for name in {"seed", "noise_seed"} & node["inputs"].keys() if node["class_type"] != "MagicFaceSchedule" else ():
            link = source(prompt, node_id, name)
            if link is not None:
                linked.append((node_id, name, link))
            elif is_number(node["inputs"][name]):
                node["inputs"][name] = seed
                done.add(node_id)
    left = [
        f"the {name} of {named(prompt, node_id)} comes from {named(prompt, link)}; --set {link}.INPUT={seed} sets that"
        for node_id, name, link in linked
        if link not in done
    ]
    if not done:
        raise InputError("\n".join(["--seed: no node has a seed or noise_seed that is a number", *left]))
    for line in left:
        tell(line)


def is_number(value: Any) -> bool:
    """Whether a value is a number, and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def value_of(prompt: Prompt, node_id: str, name: str, text: str) -> Any:
    """What a text stands for as an input's value: the kind of value that the input has, or a link."""
    old = prompt[node_id]["inputs"][name]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, list) and [type(part) for part in value] in ([str, int], [int, int]):
        link = str(value[0])
        if link not in prompt:
            raise InputError(f"--set {node_id}.{name}: there is no node {link!r} to connect to")
        return [link, value[1]]
    if isinstance(old, bool):
        value = {"true": True, "false": False}.get(text.strip().lower(), value)
        wrong = value not in (True, False) and "true or false"
    elif is_number(old):
        value = number(text)
        wrong = value is None and "a number"
    else:
        return text if isinstance(old, str) and not isinstance(value, str) else value
    if wrong:
        raise InputError(f"{name} of {named(prompt, node_id)} is {wrong} (now {json.dumps(old)}), not {text!r}")
    return value


def number(text: str) -> int | float | None:
    """A whole or another number; None for any other text."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
