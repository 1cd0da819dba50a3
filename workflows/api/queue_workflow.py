"""Queue a workflow of this folder on a running ComfyUI, with other pictures, prompt and seed.

    python queue_workflow.py magicface_two_concepts.json --server http://127.0.0.1:8188 \\
        --picture hat=my_hat.png --mask hat=my_hat_mask.png --caption hat="a straw hat" \\
        --prompt "a woman wearing a hat and a scarf" --seed 7 --output pictures \\
        --set CheckpointLoaderSimple.ckpt_name=my_sdxl.safetensors --set KSampler.steps=40 --set 40.weight=2

Needs Python 3.10 or later, and edit_workflow.py beside it. Pictures, masks and captions are given by concept, the
words that the workflow has in its MagicFace Reference, or by that node's number. Whatever the workflow saves or shows
is written to the output folder; texts that it shows are printed. Nothing is sent before every file and option has been
checked.

Exit status: 0 = done, 1 = the server did not answer, refused the workflow, or the run failed, 2 = wrong input.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from edit_workflow import InputError, Prompt, Upload, change, read

TIMEOUT_S = 60.0  # for one answer of the server, not for a run
# They show the references that they give out, not results.
SHOW_THEIR_INPUT = ("MagicFaceReference", "MagicFaceMaskWeight")
VIEWED = ("filename", "subfolder", "type")  # what the address of a saved file is made of


class RunError(Exception):
    """The server did not do what was asked."""


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, check everything, then upload, queue, wait and save."""
    given = options().parse_args(arguments)
    try:
        server = address(given.server)
        prompt = read(given.workflow)
        uploads = change(prompt, given)
        make_folder(given.output)
        deliver(server, prompt, uploads, given.output)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"No longer waiting; what {given.server} has queued goes on there.", file=sys.stderr)
        return 1
    return 0


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Queue a MagicFace workflow in API format.")
    parser.add_argument("workflow", type=Path, help="one of this folder, or one that ComfyUI exported (API)")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="where ComfyUI listens; %(default)s")
    for name, what in (
        ("picture", "a picture of yours for a concept; it is uploaded"),
        ("mask", "the concept's mask on that picture, white where it is"),
        ("caption", "what that picture shows"),
    ):
        value = "TEXT" if name == "caption" else "FILE"
        parser.add_argument(f"--{name}", action="append", default=[], type=pair, metavar=f"CONCEPT={value}", help=what)
    parser.add_argument("--prompt", help="the text of MagicFace Prompt")
    parser.add_argument("--seed", type=int, help="of every sampler and noise node")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
        metavar="NODE.INPUT=VALUE",
        help="any other input, of all nodes of a class (KSampler.steps=40) or of one node by its number (40.weight=2)",
    )
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the pictures; %(default)s")
    return parser


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE as two."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '='")
    return name.strip(), value


def setting(text: str) -> tuple[str, str, str]:
    """NODE.INPUT=VALUE as three."""
    place, value = pair(text)
    node, dot, name = place.partition(".")
    if not dot:
        raise argparse.ArgumentTypeError(f"{place!r} has no '.', as KSampler.steps has")
    return node, name, value


def address(server: str) -> str:
    """A server's address with its scheme and without what a browser's address line adds."""
    server = server.strip()
    try:
        url = urllib.parse.urlsplit(server if "://" in server else f"http://{server}")
        if url.scheme not in ("http", "https") or not url.hostname or url.port == 0 or " " in server:
            raise ValueError("http:// or https://, then a host and perhaps a port")
    except ValueError as error:
        raise InputError(f"--server {server!r} is no address as http://127.0.0.1:8188 is: {error}") from None
    return f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"


def make_folder(folder: Path) -> None:
    """The output folder, made before anything is queued."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder} cannot be a folder: {error.strerror}") from None


def deliver(server: str, prompt: Prompt, uploads: list[Upload], folder: Path) -> None:
    """Upload, run and save; what there is of a run that failed is saved too."""
    try:
        for file in uploads:
            file.inputs["image"] = upload(server, file)
        entry = run(server, prompt)
        missing: list[str] = []
        for node_id, output in entry["outputs"].items():
            if prompt.get(node_id, {}).get("class_type") in SHOW_THEIR_INPUT:
                continue
            for name, shown in output.items():
                for item in shown if isinstance(shown, list) else ():
                    if isinstance(item, dict) and "filename" in item:
                        try:
                            print(save(server, item, folder), flush=True)
                        except RunError as error:
                            missing.append(f"{item['filename']}: {error}")
                    elif name == "text" and isinstance(item, str):
                        print(f"{prompt.get(node_id, {}).get('class_type')} (node {node_id}): {item}", file=sys.stderr)
        failed = failure(entry) or "; ".join(missing)
        if not failed and not entry["outputs"]:
            print("the run has no outputs: no node of the workflow saves or shows anything", file=sys.stderr)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RunError(f"{server} answered as ComfyUI does not ({error!r}); --server names another") from error
    if failed:
        raise RunError(failed)


def run(server: str, prompt: Prompt) -> dict[str, Any]:
    """Queue a prompt, wait for its end, and return its entry in the history."""
    answer = json.loads(send(server, "/prompt", json.dumps({"prompt": prompt}).encode()))
    prompt_id = answer["prompt_id"]
    if answer.get("node_errors"):  # some of the outputs only; the others would run
        send(server, "/queue", json.dumps({"delete": [prompt_id]}).encode())
        send(server, "/interrupt", json.dumps({"prompt_id": prompt_id}).encode())
        raise RunError(f"{server} refused it: {faults(json.dumps(answer))}")
    while not (entry := history(server, prompt_id)):
        queue = json.loads(send(server, "/queue"))
        waiting = [item[1] for part in ("queue_running", "queue_pending") for item in queue[part]]
        if prompt_id not in waiting and not history(server, prompt_id):
            raise RunError(f"the run is gone from {server}: it was taken out of the queue, or the server restarted")
        time.sleep(0.5)
    return entry


def history(server: str, prompt_id: str) -> dict[str, Any]:
    """The entry of a run that has ended; empty until then."""
    entry: dict[str, Any] = json.loads(send(server, f"/history/{prompt_id}")).get(prompt_id) or {}
    return entry


def faults(answer: str) -> str:
    """What ComfyUI says of a prompt, in lines; the beginning of its answer where that is no JSON."""
    try:
        told = json.loads(answer)
        lines = [
            f"{node['class_type']} (node {node_id}), {error['message']}: {error['details']}"
            for node_id, node in (told.get("node_errors") or {}).items()
            for error in node["errors"]
        ]
        if "ckpt_name" in answer:
            lines.append("Name a checkpoint of that server: --set CheckpointLoaderSimple.ckpt_name=NAME")
        if lines:
            return "\n  ".join(["", *lines])
        error = told["error"]
        return error if isinstance(error, str) else ": ".join(filter(None, (error["message"], error.get("details"))))
    except (ValueError, LookupError, TypeError, AttributeError):
        return " ".join(answer.split())[:300]


def failure(entry: dict[str, Any]) -> str:
    """What went wrong in a run, and in which node; empty where all went well."""
    status = entry.get("status") or {}
    if status.get("status_str", "success") == "success":
        return ""
    for kind, data in status.get("messages", ()):
        if kind == "execution_error":
            return f"{str(data['exception_message']).strip()} (node {data['node_id']}, {data['node_type']})"
    return "the run was interrupted"


def save(server: str, picture: dict[str, str], folder: Path) -> Path:
    """Fetch one file; another of the same name is left as it is."""
    data = send(server, "/view?" + urllib.parse.urlencode({key: picture.get(key, "") for key in VIEWED}))
    name = Path(picture["filename"].replace("\\", "/"))
    file, number = folder / name.name, 1
    while file.exists():
        number += 1
        file = folder / f"{name.stem}_{number}{name.suffix}"
    file.write_bytes(data)
    return file


def upload(server: str, file: Upload) -> str:
    """Put a picture into the server's input folder; returns the name that it has there."""
    boundary = uuid.uuid4().hex
    name = "".join("_" if letter in '"\\\r\n' else letter for letter in file.name)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
    body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode(errors="replace") + file.data
    body += f"\r\n--{boundary}--\r\n".encode()
    answer = json.loads(send(server, "/upload/image", body, f"multipart/form-data; boundary={boundary}"))
    return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)


def send(server: str, path: str, body: bytes | None = None, content_type: str = "application/json") -> bytes:
    """Post a body, or fetch without one, and return the answer. This machine itself is reached without a proxy."""
    try:
        local = urllib.parse.urlsplit(server).hostname in ("localhost", "127.0.0.1", "0.0.0.0", "::1")
        opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
        request = urllib.request.Request(server + path, body, {"Content-Type": content_type} if body else {})
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            refusal = f"{server} refused it ({error.code}): {faults(error.read().decode(errors='replace'))}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise RunError(f"{server} does not answer ({reason}); is ComfyUI there? --server names another") from error
    raise RunError(refusal)


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names that the console cannot show
    sys.exit(main())
