"""Queue a workflow of this folder on a running ComfyUI, with other pictures, prompt and seed.

    python queue_workflow.py magicface_two_concepts.json --server http://127.0.0.1:8188 \\
        --picture hat=my_hat.png --mask hat=my_hat_mask.png --caption hat="a straw hat" \\
        --prompt "a woman wearing a hat and a scarf" --seed 7 --set KSampler.steps=40 --output pictures

Needs Python 3.10 or later and nothing else. Pictures and captions are given by concept, the word that the workflow has
in its MagicFace Reference. Whatever the workflow saves or shows is written to the output folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]


def main() -> int:
    """Read the command line, queue, wait, save."""
    parser = argparse.ArgumentParser(description="Queue a MagicFace workflow in API format.")
    parser.add_argument("workflow", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    for name in ("picture", "mask", "caption"):
        parser.add_argument(f"--{name}", action="append", default=[], type=pair, metavar="CONCEPT=VALUE")
    parser.add_argument("--prompt", help="the text of MagicFace Prompt")
    parser.add_argument("--seed", type=int, help="of every KSampler")
    parser.add_argument("--set", action="append", default=[], type=pair, metavar="CLASS.INPUT=VALUE")
    parser.add_argument("--output", type=Path, default=Path("output"))
    given = parser.parse_args()
    server = given.server.rstrip("/")
    try:
        prompt = json.loads(given.workflow.read_text(encoding="utf-8"))
        for concept, file in given.picture:
            source(prompt, concept, "image")["inputs"]["image"] = upload(server, Path(file))
        for concept, file in given.mask:
            source(prompt, concept, "mask")["inputs"]["image"] = upload(server, Path(file))
        for concept, caption in given.caption:
            reference(prompt, concept)["inputs"]["caption"] = caption
        if given.prompt is not None:
            set_all(prompt, "MagicFacePrompt", "text", given.prompt)
        if given.seed is not None:
            set_all(prompt, "KSampler", "seed", given.seed)
        for name, value in given.set:
            set_all(prompt, *name.rsplit(".", 1), value=number_or_text(value))
        for picture in run(server, prompt):
            print(save(server, picture, given.output))
    except urllib.error.HTTPError as error:
        print(f"{server} answered: {error.read().decode(errors='replace')}", file=sys.stderr)
        return 1
    except (OSError, LookupError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE as two."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '='")
    return name, value


def number_or_text(text: str) -> Any:
    """A number, true or false where it is one."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def reference(prompt: Prompt, concept: str) -> dict[str, Any]:
    """The MagicFace Reference node of a concept."""
    nodes = [node for node in prompt.values() if node["class_type"] == "MagicFaceReference"]
    for node in nodes:
        if node["inputs"]["concept"] == concept:
            return node
    raise LookupError(f"no concept {concept!r}; there are {', '.join(node['inputs']['concept'] for node in nodes)}")


def source(prompt: Prompt, concept: str, name: str) -> dict[str, Any]:
    """The node that loads a concept's image or mask."""
    link = reference(prompt, concept)["inputs"].get(name)
    if link is None:
        raise LookupError(f"the workflow gives the concept {concept!r} no {name}")
    return prompt[link[0]]


def set_all(prompt: Prompt, class_type: str, name: str, value: Any) -> None:
    """Set an input of every node of a class."""
    nodes = [node for node in prompt.values() if node["class_type"] == class_type]
    if not nodes:
        raise LookupError(f"the workflow has no {class_type}")
    for node in nodes:
        node["inputs"][name] = value


def run(server: str, prompt: Prompt) -> list[dict[str, str]]:
    """Queue a prompt, wait for its end, and name the pictures that it left."""
    answer = post(f"{server}/prompt", json.dumps({"prompt": prompt}).encode(), "application/json")
    if answer.get("node_errors"):
        raise RuntimeError(f"ComfyUI found faults: {json.dumps(answer['node_errors'])}")
    prompt_id = answer["prompt_id"]
    while True:
        entry = json.loads(get(f"{server}/history/{prompt_id}")).get(prompt_id)
        if entry:
            break
        time.sleep(0.5)
    if entry["status"]["status_str"] != "success":
        failures = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
        raise RuntimeError(failures[0]["exception_message"] if failures else "the prompt was interrupted")
    return [picture for output in entry["outputs"].values() for picture in output.get("images", [])]


def save(server: str, picture: dict[str, str], folder: Path) -> Path:
    """Fetch one picture."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / picture["filename"]
    file.write_bytes(get(f"{server}/view?{urllib.parse.urlencode(picture)}"))
    return file


def upload(server: str, file: Path) -> str:
    """Put a picture into the server's input folder; returns the name that it has there."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file.name}"\r\n'
    body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + file.read_bytes()
    answer = post(
        f"{server}/upload/image", body + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
    )
    return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)


def post(url: str, body: bytes, content_type: str) -> Any:
    """Send, and read the answer."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": content_type})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


def get(url: str) -> bytes:
    """Fetch."""
    with urllib.request.urlopen(url) as answer:
        content: bytes = answer.read()
        return content


if __name__ == "__main__":
    sys.exit(main())
