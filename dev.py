"""One script for everything around the pack; `--help` lists its commands.

It needs Python 3.10 or later and nothing else. Each command sets up what it lacks in the user's cache
folder (MAGICFACE_CACHE moves it), then runs again inside the environment that it made.
"""

import sys

if sys.version_info < (3, 10):
    sys.exit("dev.py needs Python 3.10 or later; this is Python %d.%d (%s)" % (*sys.version_info[:2], sys.executable))

import argparse
import os
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent
INSIDE = "--inside"
# Threads that wait for work by spinning make torch several times slower on a CPU that others use too, and half as fast
# again on one that they have to themselves.
SHARED = {"OMP_WAIT_POLICY": "PASSIVE"}
# And memory that glibc gives back at once, to take it again in the next layer, costs as much as the arithmetic.
ALONE = {
    "OMP_WAIT_POLICY": "ACTIVE",
    "MALLOC_MMAP_THRESHOLD_": str(2 * 10**9),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 10**9),
}
# The profiler, which measures memory, has much to say of the devices that are not there.
QUIET = {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}

# An embedded Python does not put the script's folder on its path.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from devtools.environment import SetupError, python
from devtools.install import InstallError, chosen


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; what `test` does not know is for pytest."""
    parser = argparse.ArgumentParser(prog="dev.py", description="Try, serve and test MagicFace in a real ComfyUI.")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="make a picture without and with three references and show where they are")
    demo.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for the pictures")
    demo.add_argument("--workflow", type=Path, help="another workflow in API format")

    serve = commands.add_parser("serve", help="start ComfyUI with the pack for a browser")
    serve.add_argument("--port", type=int, help="port to listen on (8188, or a free one)")
    serve.add_argument("--base", type=Path, help="folder for ComfyUI's input, output and settings")

    commands.add_parser("test", help="run every check and test; further arguments go to pytest")

    parity = commands.add_parser("parity", help="compare with recorded runs of the authors' program")
    parity.add_argument("files", nargs="+", type=Path, metavar="FILE")

    train = commands.add_parser("train", help="train the small model and the judge anew")
    train.add_argument("--minutes", type=float, help="stop after so long, at a checkpoint")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    train.add_argument("--output", type=Path, default=Path("trained"), help="folder for the weights")

    evaluate = commands.add_parser("evaluate", help="measure the paper's claims on the small model")
    evaluate.add_argument("--pairs", type=int, default=64, help="combinations of prompt and references")
    evaluate.add_argument("--first", type=int, default=0, help="number of the first combination")
    evaluate.add_argument(
        "--rows", default="", help='such as "none; rsa; rba; both"; by default all of docs/evaluation.md'
    )
    evaluate.add_argument("--agreement", action="store_true", help="only compare the regions that some blocks find")
    evaluate.add_argument("--json", type=Path, help="file for the figures")
    evaluate.add_argument("--pictures", type=Path, help="folder for a contact sheet of each combination")

    soak = commands.add_parser("soak", help="many unlike prompts on one server: nothing may stay behind")
    soak.add_argument("--prompts", type=int, default=200)
    soak.add_argument(
        "--every", type=int, default=10, help="queued at a time; a fresh process makes the last of them too"
    )
    soak.add_argument("--json", type=Path, help="file for the figures")

    bench = commands.add_parser(
        "bench", help="what the method costs, against the unpatched sampler and the authors' way"
    )
    bench.add_argument("--shapes", default="", help="such as tiny,narrow; by default all that this machine can do")
    bench.add_argument("--rounds", type=int, default=3, help="how often each way to sample is run, in turns")
    bench.add_argument("--json", type=Path, help="file for the figures")
    bench.add_argument("--plot", type=Path, help="picture of how the cost grows")
    bench.add_argument("--ways", action="store_true", help="compare other ways to compute the same instead")

    commands.add_parser("locales", help="write the nodes' English texts for translators")

    workflows = commands.add_parser("workflows", help="write the API twins of the shipped workflows")
    workflows.add_argument(
        "--pictures", action="store_true", help="thumbnails and help pictures too, by the small model"
    )

    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "test":
        parser.error("unknown arguments: " + " ".join(rest))
    arguments.rest = rest
    return arguments


def interpreter(command: str) -> Path:
    """The Python that a command runs in: that of the user's own ComfyUI, or the managed one."""
    return chosen().python if command in ("demo", "serve", "soak") else python()


def run_inside(executable: Path, argv: list[str]) -> int:
    """Run this script again in another Python, in place of this process where that is possible."""
    command = [str(executable), str(ROOT / "dev.py"), INSIDE, *argv]
    if os.name != "nt":
        sys.stdout.flush()
        os.execv(executable, command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # it got the same Ctrl-C, and has a server to stop


def end(number: int, _frame: object) -> None:
    """A polite signal to end: unwind, so that servers and half-made set-ups are seen to."""
    sys.exit(128 + number)


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked, inside the right Python. What each command needs is only imported for it."""
    if arguments.command == "demo":
        from devtools import demo

        return demo.main(arguments.output, arguments.workflow)
    if arguments.command == "serve":
        from devtools import serve

        return serve.main(arguments.port, arguments.base)
    if arguments.command == "test":
        from devtools import checks

        return checks.main(arguments.rest)
    if arguments.command == "workflows":
        from devtools import workflows

        return workflows.main(arguments.pictures)
    if arguments.command == "evaluate":
        from lab.evaluation import agreement, evaluate

        names = [name.strip() for name in arguments.rows.split(";") if name.strip()]
        numbers = range(arguments.first, arguments.first + arguments.pairs)
        if arguments.agreement:
            return agreement.main(numbers)
        return evaluate.main(numbers, names, arguments.json, arguments.pictures)
    if arguments.command == "soak":
        from lab import soak

        return soak.main(arguments.prompts, arguments.every, arguments.json)
    if arguments.command == "locales":
        from devtools import locales

        return locales.main()
    from devtools import incore

    incore.prepare()
    if arguments.command == "bench":
        return measure(arguments)
    if arguments.command == "train":
        from lab.training import train

        return train.main(arguments.minutes, arguments.resume, arguments.output)
    from lab import parity

    return parity.main([str(file) for file in arguments.files])


def measure(arguments: argparse.Namespace) -> int:
    """The benchmark."""
    from lab.bench import bench, ways

    if arguments.ways:
        return ways.main()
    names = [name.strip() for name in arguments.shapes.split(",") if name.strip()]
    return bench.main(names, arguments.rounds, arguments.json, arguments.plot)


def main(argv: list[str]) -> int:
    inside = argv[:1] == [INSIDE]
    argv = argv[1:] if inside else argv
    arguments = parse(argv)
    # Also where a shell started us in the background, which has Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, end)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, end)
    variables = ALONE if arguments.command in ("train", "evaluate", "bench") else SHARED
    if arguments.command == "bench":
        variables = {**variables, **QUIET}
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    try:
        if not inside:
            return run_inside(interpreter(arguments.command), argv)
        return run(arguments)
    except (SetupError, InstallError) as error:
        print(f"dev.py {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
