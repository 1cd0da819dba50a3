"""A client of ComfyUI's HTTP API and websocket, for a server on this machine."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]
Listener = Callable[[str, dict[str, Any]], None]

# A proxy of the environment would look for 127.0.0.1 on its own machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PromptError(Exception):
    """ComfyUI refused a prompt, or a node failed; the message is ComfyUI's own."""


class Client:
    """Talks to one server.

    Attributes:
        url: where it listens, such as "http://127.0.0.1:8188".
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, timeout: float = 60) -> bytes:
        with _OPENER.open(self.url + path, timeout=timeout) as answer:
            content: bytes = answer.read()
            return content

    def get_json(self, path: str, timeout: float = 60) -> Any:
        return json.loads(self.get(path, timeout))

    def post(self, path: str, body: bytes, content_type: str) -> Any:
        request = urllib.request.Request(self.url + path, data=body, headers={"Content-Type": content_type})
        with _OPENER.open(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def upload(self, picture: Path) -> str:
        """Put a picture into the server's input folder.

        Returns:
            The name by which LoadImage finds it.
        """
        boundary = uuid.uuid4().hex
        kind = {".png": "image/png", ".webp": "image/webp"}.get(picture.suffix.lower(), "image/jpeg")
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{picture.name}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        )
        body = head.encode() + picture.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        answer = self.post("/upload/image", body, f"multipart/form-data; boundary={boundary}")
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def queue(self, prompt: Prompt, client_id: str = "") -> str:
        """Queue a prompt.

        Returns:
            Its id.

        Raises:
            PromptError: ComfyUI found it faulty, wholly or for one of its outputs.
        """
        body = json.dumps({"prompt": prompt, "client_id": client_id}).encode()
        try:
            answer = self.post("/prompt", body, "application/json")
        except urllib.error.HTTPError as error:
            with error:
                raise PromptError(_refusal(error.read().decode(errors="replace"), prompt)) from None
        if answer.get("node_errors"):
            self.post("/queue", json.dumps({"delete": [answer["prompt_id"]]}).encode(), "application/json")
            raise PromptError(_refusal(json.dumps(answer), prompt))
        prompt_id: str = answer["prompt_id"]
        return prompt_id

    def history(self, prompt_id: str) -> dict[str, Any]:
        """What a finished prompt left: its outputs by node id, its status."""
        entry: dict[str, Any] = self.get_json(f"/history/{prompt_id}")[prompt_id]
        return entry

    def view(self, picture: dict[str, str]) -> bytes:
        """The file behind an entry such as history()["outputs"][node]["images"][0]."""
        return self.get("/view?" + urllib.parse.urlencode(picture))

    def run(self, prompt: Prompt, listener: Listener = lambda kind, data: None) -> dict[str, Any]:
        """Queue a prompt and follow it to its end.

        Args:
            prompt: nodes by id, in API format.
            listener: called with each of the prompt's websocket messages (its type and its data).

        Returns:
            Its history entry.

        Raises:
            PromptError: it was refused, failed or interrupted.
            ConnectionError: the server went away.
        """
        return self.history(asyncio.run(self._follow(prompt, listener)))

    async def _follow(self, prompt: Prompt, listener: Listener) -> str:
        import aiohttp  # ComfyUI's own requirement; the set-up, which imports this module, lacks it

        client_id = uuid.uuid4().hex
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            # Connected first, or the messages of a quick prompt would be missed.
            prompt_id = await asyncio.to_thread(self.queue, prompt, client_id)
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                kind, data = event["type"], event["data"]
                if data.get("prompt_id") != prompt_id:
                    continue
                listener(kind, data)
                if kind == "execution_error":
                    raise PromptError(_failure(data))
                if kind == "execution_interrupted":
                    raise PromptError("the prompt was interrupted")
                # Sent after the history is written, unlike execution_success.
                if kind == "executing" and data["node"] is None:
                    return prompt_id
        raise ConnectionError("the server closed the connection before the prompt was done")


def _refusal(text: str, prompt: Prompt) -> str:
    """ComfyUI's validation answer, one line for each fault."""
    try:
        answer = json.loads(text)
    except ValueError:
        return f"ComfyUI refused the prompt: {text}"
    lines = ["ComfyUI refused the prompt"]
    error = answer.get("error")
    if error:
        lines[0] += ": " + (error if isinstance(error, str) else _fault(error))
    for node_id, node in answer.get("node_errors", {}).items():
        name = node.get("class_type") or prompt.get(node_id, {}).get("class_type", "?")
        for fault in node["errors"]:
            input_name = (fault.get("extra_info") or {}).get("input_name")
            place = f", input {input_name}" if input_name else ""
            lines.append(f"  node {node_id} ({name}){place}: {_fault(fault)}")
    return "\n".join(lines)


def _fault(error: dict[str, Any]) -> str:
    return ": ".join(part for part in (error.get("message"), error.get("details")) if part)


def _failure(data: dict[str, Any]) -> str:
    kind = str(data["exception_type"]).rpartition(".")[2]
    return f"node {data['node_id']} ({data['node_type']}) failed: {kind}: {str(data['exception_message']).strip()}"
