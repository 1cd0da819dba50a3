"""The shipped client script: what it makes of a workflow, and what it says of wrong input and of a server's answers."""

from __future__ import annotations

import importlib
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

API = Path(__file__).resolve().parents[2] / "workflows" / "api"
DONE = {"status": {"status_str": "success", "messages": []}, "outputs": {"62": {"images": []}}}
IMAGE = {"filename": "made.png", "subfolder": "", "type": "output"}
Queue = Callable[..., tuple[int, str]]


class Server(ThreadingHTTPServer):
    """A stand-in for ComfyUI that answers as told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.entry: dict[str, Any] = DONE
        self.answers: dict[str, tuple[int, bytes]] = {}  # by path, instead of ComfyUI's
        self.interrupts = 0  # that end its run; none runs by itself
        self.silent = threading.Event()
        self.posted: list[tuple[str, bytes]] = []

    def answer(self, path: str) -> tuple[int, bytes]:
        for known in (path, path.partition("?")[0]):
            if known in self.answers:
                return self.answers[known]
        path = path.partition("?")[0]
        made: dict[str, Any] = {
            "/prompt": {"prompt_id": "a", "node_errors": {}},
            "/history/a": {"a": self.entry} if self.entry else {},
            "/queue": {"queue_running": [[0, "a"]] if self.interrupted < self.interrupts else [], "queue_pending": []},
            "/upload/image": {"name": f"uploaded{len(self.posted)}.png", "subfolder": "", "type": "input"},
        }
        return 200, b"picture" if path == "/view" else json.dumps(made.get(path, {})).encode()

    def handle_error(self, *arguments: object) -> None:
        """A client that gave up waiting is no error."""

    @property
    def interrupted(self) -> int:
        return self.posted.count(("/interrupt", b'{"prompt_id": "a"}'))

    @property
    def prompt(self) -> dict[str, Any]:
        (body,) = (body for path, body in self.posted if path == "/prompt")
        prompt: dict[str, Any] = json.loads(body)["prompt"]
        return prompt


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.silent.is_set():
            threading.Event().wait(1)
        status, content = self.server.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.server.posted.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def queue(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Queue:
    """Runs the script; its exit status and all that it printed."""
    monkeypatch.syspath_prepend(API)
    monkeypatch.chdir(tmp_path)
    script = importlib.import_module("queue_workflow")

    def run(workflow: Any, *arguments: str) -> tuple[int, str]:
        file = workflow if isinstance(workflow, Path) else tmp_path / "workflow.json"
        if isinstance(workflow, bytes):
            file.write_bytes(workflow)
        elif not isinstance(workflow, Path):
            file.write_text(json.dumps(workflow), encoding="utf-8")
        given = [] if "--server" in arguments else ["--server", server.host]
        status = script.main([str(file), "--answer-limit", "0.3", *given, *arguments])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out + printed.err

    return run


def shipped(name: str = "two_concepts") -> dict[str, Any]:
    prompt: dict[str, Any] = json.loads((API / f"magicface_{name}.json").read_text(encoding="utf-8"))
    return prompt


def png(file: Path, colour_type: int = 2) -> str:
    """Write a picture of one pixel; colour type 2 is RGB, 6 is RGBA."""
    pixel = b"\0" + b"\xff" * (3 if colour_type == 2 else 4)
    chunks = (
        (b"IHDR", struct.pack(">2I5B", 1, 1, 8, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(pixel)),
        (b"IEND", b""),
    )
    coded = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(coded))
    return file.name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "a list instead of nodes"),
        (b"3", "a int instead of nodes"),
        (b"null", "instead of nodes"),
        (b'"text"', "instead of nodes"),
        (b"{}", "has no nodes"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{\n "1": {,\n', "workflow.json, line 2, column 8: "),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not a JSON file"),
        (b"[" * 100_000, "is not a JSON file"),
        (b'{"1": 3}', "'1' is no node with a class_type"),
        (b'{"1": {"inputs": {}}}', "'1' is no node with a class_type"),
        (b'{"1": {"class_type": 3}}', "'1' is no node with a class_type"),
        (b'{"1": {"class_type": "A", "inputs": []}}', "the inputs of node '1' have no names"),
        (b'{"nodes": [], "links": []}', "Export (API)"),
    ],
)
def test_a_file_that_is_no_workflow_is_named(queue: Queue, server: Server, content: bytes, said: str) -> None:
    status, printed = queue(content)
    assert status == 2 and said in printed and "workflow.json" in printed
    assert not server.posted


def test_a_folder_or_a_missing_workflow_is_named(queue: Queue, tmp_path: Path) -> None:
    assert queue(tmp_path) == (2, f"{tmp_path} is a folder, not a file\n")
    status, printed = queue(tmp_path / "none.json")
    assert status == 2 and "none.json: No such file" in printed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_any_unicode_encoding_works(queue: Queue, server: Server, encoding: str) -> None:
    prompt = shipped()
    prompt["50"]["inputs"]["text"] = "帽子"
    assert queue(json.dumps(prompt, ensure_ascii=False).encode(encoding))[0] == 0
    assert server.prompt == prompt


def test_the_body_of_a_request_works(queue: Queue, server: Server) -> None:
    assert queue({"prompt": shipped(), "client_id": "x"})[0] == 0
    assert server.prompt == shipped()


@pytest.mark.parametrize("form", ["http://{}", "http://{}/", " {} ", "http://{}/?x=1#2"])
def test_addresses(queue: Queue, server: Server, form: str) -> None:
    assert queue(shipped(), "--server", form.format(server.host))[0] == 0


@pytest.mark.parametrize(
    "wrong", ["", "ftp://x", "http://", "http://x:port", "http://x:99999", "http://a b", "http://["]
)
def test_wrong_addresses(queue: Queue, wrong: str) -> None:
    status, printed = queue(shipped(), "--server", wrong)
    assert status == 2 and f"--server {wrong!r} is no address" in printed


def test_a_server_that_does_not_answer(queue: Queue, server: Server) -> None:
    status, printed = queue(shipped(), "--server", "127.0.0.1:1")
    assert status == 1 and "http://127.0.0.1:1 does not answer" in printed
    server.silent.set()
    status, printed = queue(shipped())
    assert status == 1 and "does not answer (timed out)" in printed


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/prompt", (404, b"<html>\n Not here</html>"), "refused it (404): <html> Not here</html>"),
        ("/prompt", (200, b"<html>"), "answered as ComfyUI does not"),
        ("/prompt", (200, b""), "answered as ComfyUI does not"),
        ("/prompt", (200, b"[]"), "answered as ComfyUI does not"),
        ("/prompt", (200, b"{}"), "answered as ComfyUI does not"),
        ("/prompt", (500, b"x" * 5000), "refused it (500): xxx"),
        ("/prompt", (400, b'{"error": "bad", "node_errors": {}}'), "refused it (400): bad"),
        (
            "/prompt",
            (400, b'{"error": {"message": "Node \'A\' not found.", "details": "Node ID \'#5\'"}, "node_errors": []}'),
            "Node 'A' not found.: Node ID '#5'",
        ),
        ("/history/a", (200, b"{}"), "the run is gone"),
        ("/history/a", (200, b'{"a": 3}'), "answered as ComfyUI does not"),
        ("/history/a", (500, b"broken"), "refused it (500): broken"),
    ],
)
def test_what_a_server_may_answer(
    queue: Queue, server: Server, path: str, answer: tuple[int, bytes], said: str
) -> None:
    server.answers[path] = answer
    status, printed = queue(shipped())
    assert status == 1 and said in printed and len(printed) < 600


def test_a_prompt_that_is_refused_in_part_does_not_run(queue: Queue, server: Server) -> None:
    """ComfyUI forgets an interrupt that comes while the run begins: then there is another one."""
    server.interrupts = 2
    errors = {"60": {"class_type": "KSampler", "errors": [{"message": "Value not in list", "details": "scheduler"}]}}
    server.answers["/prompt"] = 200, json.dumps({"prompt_id": "a", "node_errors": errors}).encode()
    status, printed = queue(shipped())
    assert status == 1 and "KSampler (node 60), Value not in list: scheduler" in printed
    assert [path for path, _ in server.posted] == ["/prompt", *2 * ["/queue", "/interrupt"]]
    assert server.interrupted == 2


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([["execution_error", {"exception_message": "no\n", "node_id": "60", "node_type": "K"}]], "no (node 60, K)"),
        ([["execution_interrupted", {}]], "the run was interrupted"),
    ],
)
def test_a_run_that_fails_leaves_its_pictures(
    queue: Queue, server: Server, tmp_path: Path, messages: list[Any], said: str
) -> None:
    server.entry = {"status": {"status_str": "error", "messages": messages}, "outputs": {"62": {"images": [IMAGE]}}}
    status, printed = queue(shipped())
    assert status == 1 and said in printed and str(Path("output") / "made.png") in printed
    assert (tmp_path / "output" / "made.png").read_bytes() == b"picture"


def test_all_that_is_shown_is_saved_or_printed(queue: Queue, server: Server, tmp_path: Path) -> None:
    outside = {"filename": "../up.mp4", "subfolder": "", "type": "temp", "fps": 3}
    outputs = {"62": {"images": [IMAGE, IMAGE], "animated": [True]}, "63": {"gifs": [outside], "text": ["a finding"]}}
    server.entry = {**DONE, "outputs": outputs}
    status, printed = queue(shipped(), "--output", "a/b")
    assert status == 0 and "MagicFaceSegmentationPreview (node 63): a finding" in printed
    assert {file.name for file in (tmp_path / "a" / "b").iterdir()} == {"made.png", "made_2.png", "up.mp4"}


def test_a_file_that_is_gone_costs_no_other(queue: Queue, server: Server, tmp_path: Path) -> None:
    gone = {"filename": "gone.png", "subfolder": "", "type": "output"}
    server.entry = {**DONE, "outputs": {"62": {"images": [gone, IMAGE]}}}
    server.answers["/view?filename=gone.png&subfolder=&type=output"] = 404, b""
    status, printed = queue(shipped())
    assert status == 1 and "gone.png: " in printed and "404" in printed
    assert (tmp_path / "output" / "made.png").read_bytes() == b"picture"


def test_a_run_without_outputs_says_so(queue: Queue, server: Server) -> None:
    server.entry = {**DONE, "outputs": {}}
    status, printed = queue(shipped())
    assert status == 0 and "the run has no outputs" in printed


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("KSamplerAdvanced", "noise_seed"),
        ("RandomNoise", "noise_seed"),
        ("SamplerCustom", "noise_seed"),
        ("Any", "seed"),
    ],
)
def test_every_seed_is_set(queue: Queue, server: Server, node: str, name: str) -> None:
    prompt = shipped("three_concepts")
    prompt["90"] = {"class_type": node, "inputs": {name: 1}}
    assert queue(prompt, "--seed", "7")[0] == 0
    assert server.prompt["90"]["inputs"][name] == server.prompt["50:505"]["inputs"]["seed"] == 7
    # the references' noise is another one
    assert server.prompt["54"]["inputs"]["noise_seed"] == prompt["54"]["inputs"]["noise_seed"]


def test_nodes_inside_blueprints_are_reached(queue: Queue, server: Server, tmp_path: Path) -> None:
    """Masks are found in the same caption and picture as the reference's; a given mask takes their place."""
    prompt = shipped("words")
    mine = png(tmp_path / "mine.png")
    status, printed = queue(prompt, "--caption", "hat=a hat", "--picture", f"hat={mine}", "--set", "31:313.weight=2")
    assert (status, printed) == (0, "")
    sent = {key: node["inputs"] for key, node in server.prompt.items()}
    assert sent["30:301"]["caption"] == sent["30:302"]["caption"] == "a hat"
    assert sent["31:311"]["caption"] == sent["31:312"]["caption"] == prompt["31:311"]["inputs"]["caption"]
    assert sent["31:313"]["weight"] == 2
    assert sent["10"]["image"] != prompt["10"]["inputs"]["image"]
    status, printed = queue(prompt, "--mask", f"hat={mine}")
    assert status == 0 and "is now the given file alone, not MagicFaceConceptMask (node 30:301)" in printed


def test_seeds_that_are_connected(queue: Queue, server: Server) -> None:
    prompt = shipped()
    prompt["60"]["inputs"]["seed"] = ["90", 0]
    prompt["90"] = {"class_type": "PrimitiveInt", "inputs": {"value": 3}}
    status, printed = queue(prompt, "--seed", "7")
    assert status == 2 and "no node has a seed" in printed
    assert "the seed of KSampler (node 60) comes from PrimitiveInt (node 90); --set 90.INPUT=7 sets that" in printed
    prompt["91"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": 3}}
    status, printed = queue(prompt, "--seed", "7")
    assert status == 0 and "PrimitiveInt (node 90)" in printed
    assert server.prompt["91"]["inputs"]["noise_seed"] == 7
    server.posted.clear()
    prompt["90"] = {"class_type": "Seed (rgthree)", "inputs": {"seed": 3}}
    assert queue(prompt, "--seed", "7") == (0, "")
    assert server.prompt["90"]["inputs"]["seed"] == 7 and server.prompt["60"]["inputs"]["seed"] == ["90", 0]


def test_a_mask_from_load_image(queue: Queue, server: Server, tmp_path: Path) -> None:
    prompt = shipped()
    prompt["30"]["inputs"]["mask"] = ["10", 1]
    mine, mask = png(tmp_path / "mine.png"), png(tmp_path / "mask.png")
    status, printed = queue(prompt, "--mask", f"hat={mask}")
    assert status == 0
    assert "the mask of MagicFaceReference (node 30) is now the given file alone, not LoadImage (node 10)" in printed
    loader = server.prompt[server.prompt["30"]["inputs"]["mask"][0]]
    assert loader == {"class_type": "LoadImageMask", "inputs": {"channel": "red", "image": "uploaded1.png"}}
    assert server.prompt["10"] == prompt["10"] and server.prompt["31"] == prompt["31"]
    server.posted.clear()
    status, printed = queue(prompt, "--picture", f"hat={mine}")
    assert status == 0 and "is the transparency of mine.png, which has none; see --mask" in printed
    server.posted.clear()
    assert queue(prompt, "--picture", f"hat={png(tmp_path / 'cut.png', 6)}") == (0, "")
    assert server.prompt["10"]["inputs"]["image"] == "uploaded1.png"


def test_a_mask_or_picture_through_other_nodes(queue: Queue, server: Server, tmp_path: Path) -> None:
    prompt = shipped()
    prompt["80"] = {"class_type": "GrowMask", "inputs": {"mask": ["20", 0], "expand": 3}}
    prompt["81"] = {"class_type": "ImageScale", "inputs": {"image": ["10", 0], "width": 64}}
    prompt["30"]["inputs"] |= {"mask": ["80", 0], "image": ["81", 0]}
    del prompt["31"]["inputs"]["mask"]
    file = png(tmp_path / "x.png")
    status, printed = queue(prompt, "--mask", f"hat={file}", "--picture", f"hat={file}", "--mask", f"scarf={file}")
    assert status == 0 and "not GrowMask (node 80)" in printed and "not ImageScale (node 81)" in printed
    inputs = [server.prompt[node_id]["inputs"] for node_id in ("30", "31")]
    kinds = [server.prompt[given[name][0]]["class_type"] for given in inputs for name in ("image", "mask")]
    assert kinds == ["LoadImage", "LoadImageMask", "LoadImage", "LoadImageMask"]


def test_a_shared_picture_changes_for_the_named_concept_only(queue: Queue, server: Server, tmp_path: Path) -> None:
    prompt = shipped()
    prompt["30"]["inputs"]["mask"] = ["10", 1]
    prompt["31"]["inputs"]["image"] = ["10", 0]
    assert queue(prompt, "--picture", f"hat={png(tmp_path / 'x.png', 6)}") == (0, "")
    new = server.prompt["30"]["inputs"]["image"][0]
    assert server.prompt["30"]["inputs"]["mask"] == [new, 1]
    assert server.prompt[new] == {"class_type": "LoadImage", "inputs": {"image": "uploaded1.png"}}
    assert server.prompt["10"] == prompt["10"] and server.prompt["31"]["inputs"]["image"] == ["10", 0]


def test_a_picture_with_the_old_mask_and_a_mask_read_from_alpha(queue: Queue, server: Server, tmp_path: Path) -> None:
    prompt = shipped()
    prompt["20"]["inputs"]["channel"] = "alpha"
    status, printed = queue(prompt, "--picture", f"hat={png(tmp_path / 'x.png')}")
    assert status == 0 and "MagicFaceReference (node 30) has a new picture, but still the workflow's mask" in printed
    server.posted.clear()
    status, printed = queue(prompt, "--mask", "hat=x.png")
    assert status == 0 and "x.png has no transparency" in printed
    assert server.prompt["20"]["inputs"] == {"image": "uploaded1.png", "channel": "red"}
    server.posted.clear()
    assert queue(prompt, "--mask", f"hat={png(tmp_path / 'cut.png', 6)}") == (0, "")
    assert server.prompt["20"]["inputs"]["channel"] == "alpha"


def test_views_of_one_concept_are_given_by_number(queue: Queue, server: Server) -> None:
    prompt = shipped()
    prompt["31"]["inputs"]["concept"] = "hat"
    status, printed = queue(prompt, "--caption", "hat=x")
    assert status == 2 and "'hat' is the concept of nodes 30, 31; give a number, as 30=..." in printed
    assert queue(prompt, "--caption", "30=x", "--caption", "31=y=z") == (0, "")
    assert [server.prompt[node_id]["inputs"]["caption"] for node_id in ("30", "31")] == ["x", "y=z"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--picture", "hat=none.png"), "none.png: No such file"),
        (("--picture", "hat="), ". is a folder"),
        (("--picture", "hat=folder"), "folder is a folder"),
        (("--picture", "hat=empty.png"), "empty.png is empty"),
        (("--mask", "hat=page.png"), "page.png is not a picture"),
        (("--picture", "hat=good.png", "--mask", "scarf=none.png"), "none.png: No such file"),
        (("--picture", "hat=good.png", "--picture", "hat=good.png"), "--picture hat is given twice"),
        (("--caption", "hats=x"), "no concept 'hats'; there are hat, scarf; is 'hat' meant?"),
        (("--set", "KSamper.steps=3"), "the workflow has no KSamper; is 'KSampler' meant?"),
        (("--set", "ksampler.steps=3"), "is 'KSampler' meant?"),
        (("--set", "KSampler.step=3"), "KSampler has no input 'step'; there are seed, steps"),
        (("--set", "KSampler.Steps=3"), "is 'steps' meant?"),
        (("--set", "KSampler.steps=many"), "steps of KSampler (node 60) is a number (now 30), not 'many'"),
        (("--set", "KSampler.cfg=7,5"), "cfg of KSampler (node 60) is a number (now 7.0), not '7,5'"),
        (("--set", "KSampler.steps=true"), "is a number (now 30), not 'true'"),
        (("--set", "KSampler.cfg=NaN"), "is a number (now 7.0), not 'NaN'"),
        (("--set", "53.strict=yes"), "is true or false (now false), not 'yes'"),
        (("--set", '60.model=["99", 0]'), "there is no node '99'"),
        (("--output", "good.png"), "--output good.png cannot be a folder"),
    ],
)
def test_wrong_options_are_named_before_anything_is_sent(
    queue: Queue, server: Server, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.png").write_text("<html>")
    png(tmp_path / "good.png")
    status, printed = queue(shipped(), *arguments)
    assert status == 2 and said in printed
    assert not server.posted


def test_values_keep_the_kind_of_the_input(queue: Queue, server: Server) -> None:
    settings = ["53.strict=True", "KSampler.steps=7", "60.cfg=.5", "30.concept=7", "51.text=[1, 2, 3]",
                '50.text="scarf"', '60.model=[1, 0]', "MagicFaceMaskWeight.weight=-1e0"]  # fmt: skip
    assert queue(shipped(), *(word for setting in settings for word in ("--set", setting))) == (0, "")
    made = {node_id: node["inputs"] for node_id, node in server.prompt.items()}
    assert (made["53"]["strict"], made["60"]["steps"], made["60"]["cfg"], made["40"]["weight"]) == (True, 7, 0.5, -1.0)
    assert (made["30"]["concept"], made["51"]["text"], made["50"]["text"]) == ("7", "[1, 2, 3]", "scarf")
    assert made["60"]["model"] == ["1", 0]


def test_workflows_without_the_nodes_meant(queue: Queue) -> None:
    plain = {"1": {"class_type": "SaveImage", "inputs": {}}}
    assert "there is no MagicFaceReference" in queue(plain, "--caption", "hat=x")[1]
    assert "the workflow has no MagicFacePrompt" in queue(plain, "--prompt", "x")[1]
    assert queue(plain, "--seed", "3") == (2, "--seed: no node has a seed or noise_seed that is a number\n")
    assert "SaveImage has no input 'x'; there are none" in queue(plain, "--set", "1.x=3")[1]


def test_a_list_goes_on_after_jobs_that_a_server_breaks_at(queue: Queue, server: Server, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text('{"id": "a"}\n{"id": "b", "seed": 2}\n')
    server.answers["/prompt"] = 500, b"broken"
    status, printed = queue(shipped(), "--jobs", "jobs")
    assert status == 1 and "a (line 1) failed" in printed and "b (line 2) failed" in printed and "broken" in printed
    server.answers["/prompt"] = 200, b"[]"
    status, printed = queue(shipped(), "--jobs", "jobs", "--output", "other", "--wait", "0")
    assert status == 1 and "answered as ComfyUI does not" in printed and "0 done, " in printed


def test_a_concept_that_the_prompt_lacks_is_told(queue: Queue) -> None:
    told = "the prompt does not have the concept 'hat', which ends a run unless its weight is 0"
    assert told in queue(shipped(), "--prompt", "a man in a cap and a scarf")[1]
    assert told not in queue(shipped(), "--prompt", "a man in a (HAT:1.2) and a scarf")[1]
