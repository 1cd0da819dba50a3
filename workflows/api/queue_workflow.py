"""Queue a workflow of this folder on a running ComfyUI, with other pictures, prompt and seed.

    python queue_workflow.py magicface_two_concepts.json --server http://127.0.0.1:8188 \\
        --picture hat=my_hat.png --mask hat=my_hat_mask.png --caption hat="a straw hat" \\
        --prompt "a woman wearing a hat and a scarf" --seed 7 --output pictures \\
        --set CheckpointLoaderSimple.ckpt_name=my_sdxl.safetensors --set KSampler.steps=40 --set 40.weight=2

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
    parser = argparse.ArgumentParser(description="Queue a MagicFace workflow in API format on a running ComfyUI.")
    parser.add_argument("workflow", type=Path, help="one of this folder, or one that ComfyUI exported (API)")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="ComfyUI's address (default: %(default)s)")
    for name, what in (
        ("picture", "your picture of a concept, which is uploaded"),
        ("mask", "the concept's mask on that picture, white where the concept is"),
        ("caption", "a text that says what that picture shows"),
    ):
        value = "TEXT" if name == "caption" else "FILE"
        parser.add_argument(f"--{name}", action="append", default=[], type=pair, metavar=f"CONCEPT={value}", help=what)
    parser.add_argument("--prompt", help="the text of MagicFace Prompt")
    parser.add_argument("--seed", type=int, help="of every KSampler")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
        metavar="NODE.INPUT=VALUE",
        help="any other input, of all nodes of a class (KSampler.steps=40) or of one node by its number (40.weight=2)",
    )
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the pictures; %(default)s")
    given = parser.parse_args()
    server = given.server.rstrip("/")
    try:
        prompt = read(given.workflow)
        for concept, file in given.picture:
            loader(prompt, concept, "image", "LoadImage")["image"] = upload(server, Path(file))
        for concept, file in given.mask:
            loader(prompt, concept, "mask", "LoadImageMask")["image"] = upload(server, Path(file))
        for concept, caption in given.caption:
            reference(prompt, concept)["inputs"]["caption"] = caption
        if given.prompt is not None:
            set_all(prompt, "MagicFacePrompt", "text", given.prompt)
        if given.seed is not None:
            set_all(prompt, "KSampler", "seed", given.seed)
        for target, name, value in given.set:
            set_all(prompt, target, name, value)
        for picture in run(server, prompt):
            print(save(server, picture, given.output))
    except urllib.error.HTTPError as error:
        print(f"{server} refused it: {faults(error.read().decode(errors='replace'))}", file=sys.stderr)
        return 1
    except urllib.error.URLError as error:
        print(
            f"{server} does not answer ({error.reason}); is ComfyUI running? Give another address with --server",
            file=sys.stderr,
        )
        return 1
    except (OSError, LookupError, ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def pair(text: str) -> tuple[str, str]:
    """Split NAME=VALUE into both."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '='")
    return name, value


def setting(text: str) -> tuple[str, str, Any]:
    """Split NODE.INPUT=VALUE into three; the value is read as a number, true or false if possible."""
    target, value = pair(text)
    node, dot, name = target.partition(".")
    if not dot:
        raise argparse.ArgumentTypeError(f"{target!r} has no '.', as KSampler.steps has")
    try:
        return node, name, json.loads(value)
    except ValueError:
        return node, name, value


def read(workflow: Path) -> Prompt:
    """A workflow in API format."""
    prompt = json.loads(workflow.read_text(encoding="utf-8"))
    if not all(isinstance(node, dict) and "class_type" in node for node in prompt.values()):
        raise ValueError(f"{workflow} is not in API format; those of this script's folder are")
    return dict(prompt)


def reference(prompt: Prompt, concept: str) -> dict[str, Any]:
    """The MagicFace Reference node of a concept."""
    nodes = [node for node in prompt.values() if node["class_type"] == "MagicFaceReference"]
    for node in nodes:
        if node["inputs"]["concept"] == concept:
            return node
    raise LookupError(f"no concept {concept!r}; there are {', '.join(node['inputs']['concept'] for node in nodes)}")


def loader(prompt: Prompt, concept: str, name: str, class_type: str) -> dict[str, Any]:
    """The inputs of the node that loads a concept's image or mask."""
    link = reference(prompt, concept)["inputs"].get(name)
    node = prompt[link[0]] if link else None
    if node is None or node["class_type"] != class_type:
        raise LookupError(f"the {name} of the concept {concept!r} does not come directly from a {class_type}")
    inputs: dict[str, Any] = node["inputs"]
    return inputs


def set_all(prompt: Prompt, target: str, name: str, value: Any) -> None:
    """Set an input of every node of a class, or of the node with a number."""
    nodes = [node for node_id, node in prompt.items() if target in (node_id, node["class_type"])]
    if not nodes:
        raise LookupError(f"the workflow has no {target}")
    for node in nodes:
        if name not in node["inputs"]:
            raise LookupError(f"{node['class_type']} has no input {name!r}; there are {', '.join(node['inputs'])}")
        node["inputs"][name] = value


def run(server: str, prompt: Prompt) -> list[dict[str, str]]:
    """Queue a prompt and wait for its end; returns the pictures that it made."""
    answer = post(f"{server}/prompt", json.dumps({"prompt": prompt}).encode(), "application/json")
    if answer.get("node_errors"):
        post(f"{server}/queue", json.dumps({"delete": [answer["prompt_id"]]}).encode(), "application/json")
        raise RuntimeError(f"{server} refused it: {faults(json.dumps(answer))}")
    prompt_id = answer["prompt_id"]
    while not (entry := json.loads(get(f"{server}/history/{prompt_id}")).get(prompt_id)):
        queue = json.loads(get(f"{server}/queue"))
        waiting = [item[1] for part in ("queue_running", "queue_pending") for item in queue[part]]
        if prompt_id not in waiting and not json.loads(get(f"{server}/history/{prompt_id}")):
            raise RuntimeError("the prompt was removed from the queue")
        time.sleep(0.5)
    if entry["status"]["status_str"] != "success":
        failures = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
        raise RuntimeError(failure(failures[0]) if failures else "the prompt was interrupted")
    return [picture for output in entry["outputs"].values() for picture in output.get("images", [])]


def faults(answer: str) -> str:
    """The errors in ComfyUI's answer, one per line; the answer itself if it is not JSON."""
    try:
        parsed = json.loads(answer)
        lines = [
            f"{node['class_type']} (node {node_id}), {error['message']}: {error['details']}"
            for node_id, node in parsed.get("node_errors", {}).items()
            for error in node["errors"]
        ]
        if "ckpt_name" in answer:
            lines.append("Name a checkpoint of that server: --set CheckpointLoaderSimple.ckpt_name=NAME")
        return "\n  ".join(["", *lines]) if lines else str(parsed["error"]["message"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return answer


def failure(data: dict[str, Any]) -> str:
    """The error message of a failed node, with the node."""
    return f"{str(data['exception_message']).strip()} (node {data['node_id']}, {data['node_type']})"


def save(server: str, picture: dict[str, str], folder: Path) -> Path:
    """Fetch one picture."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / picture["filename"]
    number = 1
    while file.exists():
        number += 1
        file = folder / f"{Path(picture['filename']).stem}_{number}{Path(picture['filename']).suffix}"
    file.write_bytes(get(f"{server}/view?{urllib.parse.urlencode(picture)}"))
    return file


def upload(server: str, file: Path) -> str:
    """Put a picture into the server's input folder; returns its name there."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file.name}"\r\n'
    body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + file.read_bytes()
    answer = post(
        f"{server}/upload/image", body + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
    )
    return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)


def post(url: str, body: bytes, content_type: str) -> Any:
    """Send a request and return the answer's JSON."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": content_type})
    with opener(url).open(request) as answer:
        content = answer.read()
    return json.loads(content) if content else None


def get(url: str) -> bytes:
    """Fetch the content at a URL."""
    with opener(url).open(url) as answer:
        content: bytes = answer.read()
        return content


def opener(url: str) -> urllib.request.OpenerDirector:
    """The opener for a URL: servers on this machine are reached without a proxy."""
    local = urllib.parse.urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))


if __name__ == "__main__":
    sys.exit(main())
