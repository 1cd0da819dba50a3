"""The commands for development: `python dev.py --help` lists them.

It needs Python 3.10 or later and nothing else. A command first sets up what it needs in the user's cache folder
(MAGICFACE_CACHE moves it), then runs this script again with the Python of that environment.
"""

import sys

if sys.version_info < (3, 10):
    sys.exit("dev.py needs Python 3.10 or later; this is Python %d.%d (%s)" % (*sys.version_info[:2], sys.executable))

import argparse
import importlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent
INSIDE = "--inside"

# An embedded Python does not put the script's folder on its path.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from devtools.environment import SetupError, python
from devtools.install import InstallError, chosen


class Command(NamedTuple):
    """A command.

    Attributes:
        module: declares the arguments and runs it; see devtools/commands.
        help: a line for `--help`.
        in_own_comfyui: it runs in the Python of the ComfyUI that COMFYUI_PATH names, if it names one.
        takes_rest: arguments that are not declared are allowed.
    """

    module: str
    help: str
    in_own_comfyui: bool = False
    takes_rest: bool = False


COMMANDS = {
    "demo": Command("devtools.commands.demo", "make pictures without and with three references", in_own_comfyui=True),
    "serve": Command("devtools.commands.serve", "start ComfyUI with the pack for a browser", in_own_comfyui=True),
    "test": Command(
        "devtools.commands.test", "run all checks and tests; further arguments go to pytest", takes_rest=True
    ),
    "workflows": Command("devtools.commands.workflows", "write the shipped workflows in API format"),
    "locales": Command("devtools.commands.locales", "write the English texts of the nodes for translators"),
    "docs": Command("lab.commands.docs", "write the tables of docs/ from docs/figures, and the example pictures"),
    "parity": Command("lab.commands.parity", "compare with recorded runs of the authors' program"),
    "evaluate": Command("lab.commands.evaluate", "measure the paper's claims on the small model"),
    "bench": Command("lab.commands.bench", "measure cost against the unpatched sampler and the authors' way"),
    "gpu": Command("lab.commands.gpu", "measure all that matters on a GPU, in eight minutes"),
    "soak": Command("lab.commands.soak", "run many prompts on one server and check its memory", in_own_comfyui=True),
    "trial": Command("lab.commands.trial", "find the settings for a checkpoint of your own", in_own_comfyui=True),
    "train": Command("lab.commands.train", "train the small model and the judge"),
}


def module_of(name: str) -> Any:
    """The module of a command."""
    return importlib.import_module(COMMANDS[name].module)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; `rest` holds the arguments that are not declared."""
    parser = argparse.ArgumentParser(prog="dev.py", description="Try, serve, test and measure MagicFace.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        module_of(name).add_arguments(commands.add_parser(name, help=command.help))
    arguments, rest = parser.parse_known_args(argv)
    if rest and not COMMANDS[arguments.command].takes_rest:
        parser.error("unknown arguments: " + " ".join(rest))
    arguments.rest = rest
    return arguments


def run_inside(executable: Path, argv: list[str]) -> int:
    """Run this script again with another Python, in place of this process where the system can."""
    command = [str(executable), str(ROOT / "dev.py"), INSIDE, *argv]
    if os.name != "nt":
        sys.stdout.flush()
        os.execv(executable, command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the child got the same Ctrl-C, and may have a server to stop


def end(number: int, _frame: object) -> None:
    """Handle a signal that asks to end: unwind, so that servers and unfinished set-ups are cleaned up."""
    sys.exit(128 + number)


def main(argv: list[str]) -> int:
    """Set up what the command needs and run it.

    Returns:
        The exit code.
    """
    inside = argv[:1] == [INSIDE]
    argv = argv[1:] if inside else argv
    arguments = parse(argv)
    command, module = COMMANDS[arguments.command], module_of(arguments.command)
    # A shell that starts a process in the background makes it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, end)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, end)
    for name, value in getattr(module, "VARIABLES", {}).items():
        os.environ.setdefault(name, value)
    try:
        if not inside:
            return run_inside(chosen().python if command.in_own_comfyui else python(), argv)
        code: int = module.run(arguments)
        return code
    except (SetupError, InstallError) as error:
        print(f"dev.py {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
