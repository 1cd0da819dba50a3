"""The job list of the shipped client: its rows, its checks, the order of its jobs, and its output folder."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

API = Path(__file__).resolve().parents[2] / "workflows" / "api"
Modules = Callable[[str], ModuleType]
PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 20


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Modules:
    """A module beside the script."""
    monkeypatch.syspath_prepend(API)
    return importlib.import_module


@pytest.fixture
def read(module: Modules, tmp_path: Path) -> Callable[..., list[Any]]:
    """Reads a list with the two-concept workflow; `told` gets what is told."""
    for name in ("a.png", "b.png", "pictures/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG + name.encode())

    def run(text: str | bytes, *options: str, told: list[str] | None = None, name: str = "jobs") -> list[Any]:
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        workflow = [str(API / "magicface_two_concepts.json")]
        given = module("job_options").parser().parse_args([*workflow, *options])
        jobs: list[Any] = module("job_list").read_jobs(file, given, (told if told is not None else []).append)
        return jobs

    return run


def lines(*rows: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def made(module: Modules, job: Any) -> dict[str, Any]:
    """The inputs of a job's nodes, by number."""
    return {node_id: node["inputs"] for node_id, node in module("job_list").build(job)[0].items()}


def test_every_option_is_a_column(module: Modules) -> None:
    options = vars(module("job_options").parser().parse_args([]))
    columns = [column.partition(".")[0] for column in module("job_rows").columns()]
    of_the_run = {"server", "output", "answer_limit", "jobs", "stall_limit", "wait"}
    assert set(columns) == options.keys() - of_the_run | {"id"} and len(columns) == len(set(columns))
    page = (API.parents[1] / "docs" / "workflows.md").read_text(encoding="utf-8")
    table = re.findall(
        r"`([a-z]+)[^`]*`", "".join(re.findall(r"^\| `.*$", page.partition("### Job lists")[2], re.MULTILINE))
    )
    assert set(columns) <= set(table)


def test_csv_and_json_lines_say_the_same(module: Modules, read: Callable[..., list[Any]]) -> None:
    csv = (
        "id,seed,prompt,picture.hat,mask.scarf,caption.hat,word.hat,set.KSampler.steps,set.53.strict\r\n"
        '\r\none,3-4,"a cap, red",a.png,pictures/c.png,"a ""cap""",cap,7,true\r\ntwo,,,,,,,,\r\n'
    )
    written = lines(
        {"id": "one", "seed": "3-4", "prompt": "a cap, red", "picture": {"hat": "a.png"},
         "mask.scarf": "pictures/c.png", "caption": {"hat": 'a "cap"'}, "word": {"hat": "cap"},
         "set": {"KSampler.steps": 7, "53.strict": True}},
        {"id": "two", "seed": None},
    )  # fmt: skip
    both = []
    for text in (csv, csv.replace(",", ";").replace("cap; red", "cap, red"), written, csv.encode("utf-16")):
        jobs = read(text)
        assert [(job.id, job.given.seed) for job in jobs] == [("one-3", 3), ("one-4", 4), ("two", None)]
        both.append([job.digest for job in jobs])
    assert len(set(map(tuple, both))) == 1
    nodes = made(module, jobs[1])
    assert (nodes["60"]["seed"], nodes["60"]["steps"], nodes["53"]["strict"]) == (4, 7, True)
    assert (nodes["30"]["caption"], nodes["30"]["concept"], nodes["31"]["concept"]) == ('a "cap"', "cap", "scarf")
    assert nodes["50"]["text"] == "a cap, red"
    shipped = json.loads((API / "magicface_two_concepts.json").read_text(encoding="utf-8"))
    assert made(module, jobs[2]) == {node_id: node["inputs"] for node_id, node in shipped.items()}


def test_the_command_line_holds_for_jobs_that_do_not_say_otherwise(
    module: Modules, read: Callable[..., list[Any]]
) -> None:
    text = lines({"id": "a"}, {"id": "b", "seed": 2, "prompt": "mine", "set.KSampler.steps": 2, "caption.hat": "mine"})
    options = ("--seed", "8-9", "--prompt", "p", "--set", "KSampler.steps=5", "--set", "KSampler.cfg=3")
    jobs = read(text, *options, "--caption", "hat=c", "--caption", "scarf=d")
    assert [job.id for job in jobs] == ["a-8", "a-9", "b"]
    nodes = [made(module, job) for job in jobs]
    assert [(one["60"]["seed"], one["60"]["steps"], one["60"]["cfg"]) for one in nodes] == [
        (8, 5, 3),
        (9, 5, 3),
        (2, 2, 3),
    ]
    assert [one["50"]["text"] for one in nodes] == ["p", "p", "mine"]
    assert [(one["30"]["caption"], one["31"]["caption"]) for one in nodes] == [("c", "d"), ("c", "d"), ("mine", "d")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "jobs is empty"),
        ("id,seed\n", "jobs has no jobs"),
        ("id,sed\na,1\n", "line 1: unknown column 'sed'; there are id, workflow, picture.CONCEPT"),
        ("id,sed\na,1\n", "is 'seed' meant?"),
        ("id,picture\na,a.png\n", "line 1: column 'picture' has to be picture.CONCEPT"),
        ("id,seed.x\na,1\n", "line 1: column 'seed.x' has to be seed"),
        ("id,seed,seed\na,1,2\n", "line 1: column 'seed' is there twice"),
        ("id,seed\na,1\n\nb,2,3\n", "line 4: 3 cells, but 2 columns"),
        ('id,prompt\na,"x\ny"\nb,"z\n', "line 4: unexpected end of data"),
        ("id,prompt\na,\xe9\n".encode("latin-1"), "jobs is not in UTF-8"),
        ('{"id": "a"}\n{"id": \n', "line 2: is not JSON ("),
        ('[\n{"id": "a"}\n]\n', "line 1: is not JSON ("),
        ('{"id": "a"}\n3\n', "line 2: is a int; a job is an object"),
        (lines({"id": "a", "steps": 3}), "line 1: unknown column 'steps'"),
        (lines({"id": "a"}, {"id": "b", "picture.hats": "a.png"}), "line 2: no concept 'hats'; there are hat, scarf"),
        (lines({"id": "a", "picture": {"hat": "none.png"}}), "none.png: No such file"),
        (lines({"id": "a", "workflow": "none.json"}), "none.json: No such file"),
        (lines({"id": "a", "workflow": "jobs"}), "is not in API format"),
        (lines({"id": "a", "set": {"KSampler.step": 3}}), "line 1: KSampler has no input 'step'; there are seed"),
        (lines({"id": "a", "set": {"Ksampler.steps": 3}}), "has no Ksampler; is 'KSampler' meant?"),
        (lines({"id": "a", "set": {"steps": 3}}), "line 1: 'steps' has no '.'"),
        (lines({"id": "a", "set": {"KSampler.steps": "many"}}), "is a number (now 30), not 'many'"),
        (lines({"id": "a", "seed": "1-"}), "line 1: '1-' is no whole number, and no range of them as 1-24 is"),
        (lines({"id": "a", "seed": "9-1"}), "line 1: '9-1' has to be a range from low to high"),
        (lines({"id": "a", "seed": "1-100001"}), "of at most 100000 seeds"),
        (lines({"id": "a", "seed": 1.5}), "line 1: '1.5' is no whole number"),
        (lines({"id": "a", "prompt": 3}), "line 1: prompt is 3 instead of a text"),
        (lines({"id": "a"}, {"id": "A"}), "line 2: the id 'A' is that of line 1 too"),
        (lines({"id": "a", "seed": "1-3"}, {"id": "a-2"}), "line 2: the id 'a-2' is that of line 1 too"),
        (lines({"id": "a_2"}, {"id": "a"}), "line 1: the id 'a_2' would be the name of another picture of 'a'"),
        *((lines({"id": wrong}), "cannot be a file's name") for wrong in ("../a", ".a", "a.", "Nul.x", 99 * "xy")),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(
    module: Modules, read: Callable[..., list[Any]], text: str | bytes, said: str
) -> None:
    with pytest.raises(module("read_workflow").InputError) as error:
        read(text)
    assert said in str(error.value)


def test_all_faults_are_told_at_once_and_equal_ones_together(module: Modules, read: Callable[..., list[Any]]) -> None:
    rows = [{"id": f"n{n}", "caption.cap": "x"} for n in range(5)] + [
        {"id": f"m{n}", "seed": f"x{n}"} for n in range(30)
    ]
    with pytest.raises(module("read_workflow").InputError) as error:
        read(lines(*rows))
    told = str(error.value).splitlines()
    assert len(told) == 21 and told[-1] == "and 11 other faults"
    assert any("line 1 and 4 more lines: no concept 'cap'" in line for line in told)


def test_what_is_told_of_many_jobs_is_told_once(read: Callable[..., list[Any]]) -> None:
    told: list[str] = []
    read(lines(*({"id": f"n{n}", "picture.hat": "a.png"} for n in range(4))), told=told)
    (line,) = told
    assert line.startswith("line 1: MagicFaceReference (node 30) has a new picture, but still the workflow's mask")


def test_equal_pictures_count_as_one_whatever_their_names(
    module: Modules, read: Callable[..., list[Any]], tmp_path: Path
) -> None:
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    jobs = read(lines(*({"id": name, "picture.hat": f"{name}.png"} for name in ("a", "copy", "b"))))
    assert jobs[0].digest == jobs[1].digest != jobs[2].digest
    assert made(module, jobs[0])["10"]["image"] == made(module, jobs[1])["10"]["image"] != "a.png"
    (tmp_path / "a.png").write_bytes(PNG + b"another")
    assert made(module, jobs[0])["10"]["image"] != made(module, jobs[1])["10"]["image"]


def handed_out(queue: Any, server: str) -> list[str]:
    """The ids of all jobs that a server gets, one after the other."""
    taken = []
    while job := queue.take(server):
        taken.append(job.id)
        queue.close()
    return taken


def test_jobs_that_share_references_follow_each_other(module: Modules, read: Callable[..., list[Any]]) -> None:
    rows = [
        {"id": f"{file}{seed}{steps}", "seed": seed, "picture.hat": f"{file}.png", "set.KSampler.steps": steps}
        for seed in (1, 2) for steps in (3, 4) for file in "ab"
    ]  # fmt: skip
    queue = module("job_queue").JobQueue(read(lines(*rows)), ["x", "y"])
    first, second = queue.take("x"), queue.take("y")
    assert (first.id, second.id) == ("a13", "b13"), "a second server begins with other references"
    queue.give_back(second)
    queue.close()
    queue.gone("y")
    assert handed_out(queue, "x") == ["a23", "a14", "a24", "b13", "b23", "b14", "b24"] and queue.empty


def test_a_job_that_a_server_was_lost_with_comes_last(module: Modules, read: Callable[..., list[Any]]) -> None:
    queue = module("job_queue").JobQueue(read(lines(*({"id": name} for name in "abc"))), ["x", "y"])
    queue.give_back(queue.take("x"), last=True)
    assert handed_out(queue, "x") == ["b", "c", "a"]


def test_a_server_that_lacks_something_gets_no_job_that_needs_it(
    module: Modules, read: Callable[..., list[Any]]
) -> None:
    rows = [{"id": f"{name}{n}", "set.1.ckpt_name": name} for n in range(3) for name in "pq"]
    queue = module("job_queue").JobQueue(read(lines(*rows)), ["x", "y"])
    queue.refuse(queue.take("x"), "x", "no p")
    assert not queue.hopeless() and handed_out(queue, "x") == ["q0", "q1", "q2"]
    queue.refuse(queue.take("y"), "y", "no p either")
    assert [(job.id, reason) for job, reason, _ in queue.hopeless()] == [
        (f"p{n}", "no p; no p either") for n in range(3)
    ]  # fmt: skip
    assert queue.empty


def test_a_job_that_fails_is_tried_on_one_more_server(module: Modules, read: Callable[..., list[Any]]) -> None:
    queue = module("job_queue").JobQueue(read(lines({"id": "a"}, {"id": "b"})), ["x", "y", "z"])
    queue.fail(queue.take("x"), "x", "broken")
    assert handed_out(queue, "x") == ["b"] and not queue.hopeless()
    queue.fail(queue.take("y"), "y", "broken too")
    assert queue.take("z") is None
    ((job, reason, server),) = queue.hopeless()
    assert server == "y"
    assert (job.id, reason) == ("a", "broken too; broken") or (job.id, reason) == ("a", "broken; broken too")
    assert queue.empty
    alone = module("job_queue").JobQueue(read(lines({"id": "a"})), ["x"])
    alone.fail(alone.take("x"), "x", "broken")
    assert [reason for _, reason, _ in alone.hopeless()] == ["broken"]


def job(name: str, digest: str = "d") -> Any:
    return Namespace(id=name, digest=digest, given=Namespace(seed=1))


def test_a_manifest_says_what_is_done(module: Modules, tmp_path: Path) -> None:
    manifest = module("manifest").Manifest(tmp_path, ["a", "b"])
    manifest.save({"a.png": b"1", "shown/a_Preview.png": b"2"})
    manifest.note(job("a"), files=["a.png", "shown/a_Preview.png"], error=None)
    manifest.note(job("b"), files=[], error="broken")
    assert not list(tmp_path.rglob("*.part"))
    again = module("manifest").Manifest(tmp_path, ["a", "b"])
    assert again.has(job("a")) and not again.has(job("b")) and not again.has(job("c"))
    assert not again.has(job("a", "other")) and again.changed(job("a", "other"))
    assert not again.changed(job("a")) and not again.changed(job("b", "other"))
    (tmp_path / "shown" / "a_Preview.png").unlink()
    assert again.has(job("a")), "what is only shown may be thrown away"
    (tmp_path / "a.png").unlink()
    assert not again.has(job("a"))


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_was_cut_off_costs_no_other(module: Modules, tmp_path: Path, cut: int) -> None:
    manifest = module("manifest").Manifest(tmp_path, [])
    for name in "ab":
        manifest.save({f"{name}.png": b"1"})
        manifest.note(job(name), files=[f"{name}.png"], error=None)
    file = tmp_path / "manifest.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    again = module("manifest").Manifest(tmp_path, [])
    assert again.has(job("a")) and again.has(job("b")) == (cut == 1)
    again.note(job("b"), files=["b.png"], error=None)
    last = module("manifest").Manifest(tmp_path, [])
    assert last.has(job("a")) and last.has(job("b"))


def test_files_that_are_not_of_a_list_are_not_replaced(module: Modules, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(module("read_workflow").InputError, match="has a file 'a' that is not of a job list"):
        module("manifest").Manifest(tmp_path, ["a", "b"])
    module("manifest").Manifest(tmp_path, ["b"])


def test_names_of_a_jobs_files(module: Modules) -> None:
    files = [("SaveImage", {"filename": "x_1.png", "type": "output"}), ("SaveImage", {"filename": "x_2.webp"})]
    files += [("My/Node: 2", {"filename": "..\\t.png", "type": "temp"})] * 2
    expected = ["a.png", "a_2.webp", "shown/a_My-Node-2.png", "shown/a_My-Node-2_2.png"]
    assert module("manifest").names("a", files) == expected


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(module: Modules) -> None:
    now = [0.0]
    out, terminal = io.StringIO(), Terminal()
    for stream in (out, terminal):
        now[0] = 0
        progress = module("progress").Progress(4, 2, stream, lambda: now[0])
        now[0] = 50
        progress.job("a: done")
        now[0] = 60
        progress.job("b: broken", failed=True)
        progress.end()
        assert progress.summary() == "1 done, 1 failed, 2 skipped (done before), 2 left"
    assert out.getvalue() == "a: done (1 of 4, about 2 min left)\nb: broken (2 of 4, 1 failed, about 60 s left)\n"
    assert "a: done" not in terminal.getvalue() and "b: broken" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K2 of 4, 1 failed, about 60 s left\n")


def test_the_example_is_right(module: Modules) -> None:
    given = module("job_options").parser().parse_args([str(API / "magicface_words.json")])
    told: list[str] = []
    jobs = module("job_list").read_jobs(API / "jobs.csv", given, told.append)
    assert len(jobs) == 24 and len({job.references for job in jobs}) == 4 and not told


def test_several_servers_or_seeds_need_a_list(
    module: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script, workflow = module("queue_workflow"), str(API / "magicface_words.json")
    for options, said in (
        (["--server", "a", "--server", "b"], "several --server need --jobs"),
        (["--seed", "1-2"], "a range of seeds needs --jobs"),
    ):
        assert script.main([workflow, *options]) == 2 and said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main([])
    assert "a workflow is required, or --jobs" in capsys.readouterr().err
    (tmp_path / "jobs").write_text('{"id": "a"}')
    assert script.main(["--jobs", "jobs"]) == 2
    assert "line 1: no workflow: name one in the command, or in a column 'workflow'" in capsys.readouterr().err


def test_a_range_of_seeds(module: Modules) -> None:
    seeds = module("job_options").seeds
    assert [list(seeds(text)) for text in ("7", " 1-3 ", "-5")] == [[7], [1, 2, 3], [-5]]
    for wrong in ("", "x", "1,2", "1.0", "1--3", "3-1"):
        with pytest.raises(argparse.ArgumentTypeError):
            seeds(wrong)
