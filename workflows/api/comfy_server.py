"""One ComfyUI server: upload, queue, ask, fetch, cancel, and what its answers mean."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from read_workflow import InputError, Prompt

# They show the references that they give out, not results.
SHOW_THEIR_INPUT = ("MagicFaceReference", "MagicFaceMaskWeight")
NOT_THERE = (502, 503, 504)  # a proxy's answer for a server that is gone
TAKE_BACK_S = 5.0
INTERRUPT_EVERY_S = 0.2
VIEWED = ("filename", "subfolder", "type")  # what the address of a saved file is made of
# ComfyUI's errors of a prompt for which another server may have what this one lacks: a node, a model, a picture.
LACKING = ("missing_node_type", "value_not_in_list", "custom_validation_failed")

Need = tuple[str, str, str]  # class of a node, input and value as JSON; the last two are empty for the class itself


class RunError(Exception):
    """The server did not do what was asked."""


class ServerFault(RunError):
    """The server does not answer, or not as ComfyUI does."""


class Refusal(RunError):
    """The server answered that it will not do it."""

    def __init__(self, text: str, answer: str) -> None:
        super().__init__(text)
        self.answer = answer


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


class Server:
    """A server by its address; every answer has to come within a limit."""

    def __init__(self, url: str, answer_limit_s: float) -> None:
        self.url = url
        self.answer_limit_s = answer_limit_s

    def queue(self, prompt: Prompt, prompt_id: str = "") -> str:
        """Queue a prompt; returns its id, which is the given one if the server is not very old."""
        body: dict[str, Any] = {"prompt": prompt, **({"prompt_id": prompt_id} if prompt_id else {})}
        told = self._send("/prompt", json.dumps(body).encode()).decode(errors="replace")
        with self.understood():
            answer = json.loads(told)
            queued: str = answer["prompt_id"]
            partly = bool(answer.get("node_errors"))  # some of the outputs only; the others would run
        if partly:
            self.take_back([queued])
            raise Refusal(f"{self.url} refused it: {faults(told)}", told)
        return queued

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and interrupt it if it runs."""
        self._send("/queue", json.dumps({"delete": [prompt_id]}).encode())
        self._send("/interrupt", json.dumps({"prompt_id": prompt_id}).encode())

    def take_back(self, prompt_ids: Iterable[str]) -> bool:
        """Cancel prompts until the server has none of them, for at most `TAKE_BACK_S`; returns whether it has none.

        Once is not enough: ComfyUI forgets an interrupt that comes while a run begins.
        """
        end = time.monotonic() + TAKE_BACK_S
        while left := set[str]().union(*self.queued()).intersection(prompt_ids):
            for prompt_id in left:
                self.cancel(prompt_id)
            if time.monotonic() > end:
                return False
            time.sleep(INTERRUPT_EVERY_S)
        return True

    def queued(self) -> tuple[set[str], set[str]]:
        """The ids of the prompts that run, and of those that wait."""
        with self.understood():
            queue = json.loads(self._send("/queue"))
            running, waiting = ({item[1] for item in queue[f"queue_{part}"]} for part in ("running", "pending"))
        return running, waiting

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The entry of a run that has ended; empty until then."""
        with self.understood():
            entry: dict[str, Any] = json.loads(self._send(f"/history/{prompt_id}")).get(prompt_id) or {}
        return entry

    def arguments(self) -> list[str]:
        """What its ComfyUI was started with."""
        with self.understood():
            found: list[str] = json.loads(self._send("/system_stats"))["system"]["argv"]
        return found

    def fetch(self, file: dict[str, str]) -> bytes:
        """A file that a run saved or showed."""
        return self._send("/view?" + urllib.parse.urlencode({key: file.get(key, "") for key in VIEWED}))

    def upload(self, name: str, data: bytes) -> str:
        """Put a picture into the server's input folder; returns the name that it has there."""
        boundary = uuid.uuid4().hex
        name = "".join("_" if letter in '"\\\r\n' else letter for letter in name)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode(errors="replace") + data
        body += f"\r\n--{boundary}--\r\n".encode()
        with self.understood():
            answer = json.loads(self._send("/upload/image", body, f"multipart/form-data; boundary={boundary}"))
            return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    @contextmanager
    def understood(self) -> Iterator[None]:
        """What is read inside is ComfyUI's answer, or this is no ComfyUI."""
        try:
            yield
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ServerFault(f"{self.url} answered as ComfyUI does not ({error!r}); --server names another") from error

    def _send(self, path: str, body: bytes | None = None, content_type: str = "application/json") -> bytes:
        """Post a body, or fetch without one, and return the answer. This machine itself is reached without a proxy."""
        try:
            local = urllib.parse.urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "0.0.0.0", "::1")
            opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
            request = urllib.request.Request(self.url + path, body, {"Content-Type": content_type} if body else {})
            try:
                with opener.open(request, timeout=self.answer_limit_s) as answer:
                    content: bytes = answer.read()
                    return content
            except urllib.error.HTTPError as error:
                status, told = error.code, error.read().decode(errors="replace")
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise ServerFault(
                f"{self.url} does not answer ({reason}); is ComfyUI there? --server names another"
            ) from error
        text = f"{self.url} refused it ({status}): {faults(told)}"
        raise ServerFault(text) if status in NOT_THERE else Refusal(text, told)


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


def lacks(answer: str, prompt: Prompt) -> set[Need]:
    """What a server that refused a prompt lacks and another may have; empty where the prompt itself is at fault."""
    found: set[Need] = set()
    try:
        told = json.loads(answer)
        if told.get("error") and told["error"]["type"] in LACKING:
            found.add((told["error"]["extra_info"]["class_type"], "", ""))
        for node_id, node in (told.get("node_errors") or {}).items():
            for error in node["errors"]:
                if error["type"] in LACKING:
                    name = error["extra_info"]["input_name"]
                    found.add((node["class_type"], name, json.dumps(prompt[node_id]["inputs"].get(name))))
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    return found


def needed(prompt: Prompt, lacking: Iterable[Need]) -> Need | None:
    """Something that a prompt needs and a server lacks."""
    for need in lacking:
        kind, name, value = need
        for node in prompt.values():
            if node["class_type"] == kind and (not name or json.dumps(node["inputs"].get(name)) == value):
                return need
    return None


def failure(entry: dict[str, Any]) -> str:
    """What went wrong in a run, and in which node; empty where all went well."""
    status = entry.get("status") or {}
    if status.get("status_str", "success") == "success":
        return ""
    for kind, data in status.get("messages", ()):
        if kind == "execution_error":
            return f"{str(data['exception_message']).strip()} (node {data['node_id']}, {data['node_type']})"
    return "the run was interrupted"


def seconds(entry: dict[str, Any]) -> float:
    """How long a run took on the server, without its time in the queue; 0 where the server does not say."""
    times = [data["timestamp"] for _, data in (entry.get("status") or {}).get("messages", ()) if "timestamp" in data]
    return (max(times) - min(times)) / 1000 if times else 0.0


def shown(prompt: Prompt, entry: dict[str, Any]) -> tuple[list[tuple[str, dict[str, str]]], list[str]]:
    """The files that a run saved or showed, each with its node's class, and the texts; in the order of the nodes."""
    files, texts = [], []
    for node_id in dict.fromkeys([*prompt, *entry["outputs"]]):
        class_type = str(prompt.get(node_id, {}).get("class_type"))
        for name, items in entry["outputs"].get(node_id, {}).items():
            for item in items if isinstance(items, list) and class_type not in SHOW_THEIR_INPUT else ():
                if isinstance(item, dict) and "filename" in item:
                    files.append((class_type, item))
                elif name == "text" and isinstance(item, str):
                    texts.append(f"{class_type} (node {node_id}): {item}")
    return files, texts
