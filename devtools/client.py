"""A client of ComfyUI's HTTP API and websocket, for a server on this machine."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

Prompt = dict[str, dict[str, Any]]
Listener = Callable[[str, dict[str, Any]], None]
T = TypeVar("T")

TIMEOUT_S = 60


class PromptError(Exception):
    """ComfyUI refused a prompt, or a node failed; the message is ComfyUI's own."""


class Refused(OSError):
    """The server answered with an error status; the message is the answer's text."""


class Client:
    """Talks to one server. Proxies named by environment variables are not used.

    Attributes:
        url: the server's address, such as "http://127.0.0.1:8188".
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, timeout: float = TIMEOUT_S, query: Mapping[str, str] | None = None) -> bytes:
        """The content at a path.

        Args:
            path: such as "/object_info".
            timeout: in seconds.
            query: parameters of the query string.

        Raises:
            ConnectionError: the server cannot be reached, or does not answer in time.
            Refused: it answers with an error status.
        """
        return _wait_for(_request("GET", self.url + path, timeout, params=query))

    def get_json(self, path: str, timeout: float = TIMEOUT_S) -> Any:
        """The JSON at a path; see `get`."""
        return json.loads(self.get(path, timeout))

    def post(self, path: str, body: Any) -> None:
        """Post JSON; see `get` for the errors."""
        _wait_for(_request("POST", self.url + path, TIMEOUT_S, json=body))

    def upload(self, picture: Path) -> str:
        """Put a picture into the server's input folder; a file of the same name is replaced.

        Returns:
            The name that LoadImage finds it by.
        """
        form = aiohttp.FormData(quote_fields=False)  # ComfyUI does not decode quoted file names
        form.add_field("overwrite", "true")
        form.add_field("image", picture.read_bytes(), filename=picture.name)
        answer = json.loads(_wait_for(_request("POST", self.url + "/upload/image", TIMEOUT_S, data=form)))
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def queue(self, prompt: Prompt, client_id: str = "") -> str:
        """Queue a prompt.

        Returns:
            Its id.

        Raises:
            PromptError: ComfyUI found an error in it, or in the inputs of one of its outputs.
        """
        return _wait_for(self._queue(prompt, client_id))

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of a finished prompt: its outputs by node id, and its status."""
        entry: dict[str, Any] = self.get_json(f"/history/{prompt_id}")[prompt_id]
        return entry

    def view(self, picture: dict[str, str]) -> bytes:
        """The file that an entry such as history()["outputs"][node]["images"][0] names."""
        return self.get("/view", query=picture)

    def run(self, prompt: Prompt, listener: Listener = lambda kind, data: None) -> dict[str, Any]:
        """Queue a prompt and wait until it is done.

        Args:
            prompt: nodes by id, in API format.
            listener: called with the type and the data of each websocket message about the prompt.

        Returns:
            Its history entry.

        Raises:
            PromptError: it was refused, failed or was interrupted.
            ConnectionError: the server closed the connection.
        """
        return self.history(_wait_for(self._follow(prompt, listener)))

    async def _queue(self, prompt: Prompt, client_id: str) -> str:
        try:
            body = {"prompt": prompt, "client_id": client_id}
            answer = json.loads(await _request("POST", self.url + "/prompt", TIMEOUT_S, json=body))
        except Refused as error:
            raise PromptError(_refusal(str(error), prompt)) from None
        if answer.get("node_errors"):
            await _request("POST", self.url + "/queue", TIMEOUT_S, json={"delete": [answer["prompt_id"]]})
            raise PromptError(_refusal(json.dumps(answer), prompt))
        prompt_id: str = answer["prompt_id"]
        return prompt_id

    async def _follow(self, prompt: Prompt, listener: Listener) -> str:
        client_id = uuid.uuid4().hex
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws", params={"clientId": client_id}, max_msg_size=0) as socket,
        ):
            # The connection comes first: a quick prompt would be done before it.
            prompt_id = await self._queue(prompt, client_id)
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


async def _request(method: str, address: str, timeout: float, **content: Any) -> bytes:
    """Send one request; see `Client.get` for the errors."""
    limit = aiohttp.ClientTimeout(timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.request(method, address, **content) as answer,
        ):
            body = await answer.read()
            if answer.status >= 400:
                raise Refused(body.decode(errors="replace"))
            return body
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        raise ConnectionError(f"{address}: {error or 'no answer in time'}") from error


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread: the caller's own thread may have a running one, as browser tests do."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="client", daemon=True).start()
    return loop


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, which is cancelled if the wait is interrupted."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _refusal(text: str, prompt: Prompt) -> str:
    """ComfyUI's validation answer, one line for each error."""
    try:
        answer = json.loads(text)
    except ValueError:
        return f"ComfyUI refused the prompt: {text}"
    lines = ["ComfyUI refused the prompt"]
    error = answer.get("error")
    if error:
        lines[0] += ": " + (error if isinstance(error, str) else _error(error))
    for node_id, node in answer.get("node_errors", {}).items():
        name = node.get("class_type") or prompt.get(node_id, {}).get("class_type", "?")
        for found in node["errors"]:
            input_name = (found.get("extra_info") or {}).get("input_name")
            where = f", input {input_name}" if input_name else ""
            lines.append(f"  node {node_id} ({name}){where}: {_error(found)}")
    return "\n".join(lines)


def _error(error: dict[str, Any]) -> str:
    return ": ".join(part for part in (error.get("message"), error.get("details")) if part)


def _failure(data: dict[str, Any]) -> str:
    kind = str(data["exception_type"]).rpartition(".")[2]
    return f"node {data['node_id']} ({data['node_type']}) failed: {kind}: {str(data['exception_message']).strip()}"
