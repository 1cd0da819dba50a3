"""A ComfyUI of one's own: started from its folder on a free port, and ended with the process that started it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from comfy_server import RunError, Server, ServerFault
from read_workflow import InputError

START_LIMIT_S = 600.0
STOP_LIMIT_S = 10.0
TRIES = 2  # another program may open the port after it was found free
PYTHONS = ("venv/bin/python", ".venv/bin/python", "venv/Scripts/python.exe", ".venv/Scripts/python.exe",
           "python_embeded/python.exe")  # fmt: skip
FOLDERS = ("input", "output", "temp", "user")
# Runs ComfyUI's main.py, and ends it when the pipe closes: that happens however the process at its other end has ended.
# Where it can, it runs as a child's child, because Ray kills the children of an actor before they can tidy up.
BOOT = """
import os, runpy, shutil, sys, threading
child = os.fork() if hasattr(os, "fork") else 0
if child:
    os._exit(1 if os.waitpid(child, 0)[1] else 0)
main, folder = sys.argv[1:3]
pipe = os.dup(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
def end_with_starter():
    os.read(pipe, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)
threading.Thread(target=end_with_starter, daemon=True).start()
sys.argv[:] = [main, *sys.argv[3:]]
sys.path[0] = os.path.dirname(main)
runpy.run_path(main, run_name="__main__")
"""


class ComfyProcess:
    """A ComfyUI with input, output, temp and user folders of its own, which are deleted with it.

    Attributes:
        url: where it listens; another one after each start.
    """

    def __init__(self, comfyui: str, flags: Sequence[str] = ()) -> None:
        """
        Args:
            comfyui: its folder, or that of a portable install. COMFYUI_PYTHON names its Python; else it is one of the
                usual folders beside it, or the Python that runs this.
            flags: further arguments of ComfyUI's main.py.

        Raises:
            InputError: there is no ComfyUI.
        """
        given = Path(comfyui).expanduser().absolute()
        found = next((path for path in (given, given / "ComfyUI") if (path / "main.py").is_file()), None)
        if found is None:
            raise InputError(f"{given} is not the folder of a ComfyUI: it has no main.py; COMFYUI_PATH names another")
        pythons = [path / name for path in (found, found.parent) for name in PYTHONS]
        python = os.environ.get("COMFYUI_PYTHON") or next((str(path) for path in pythons if path.is_file()), None)
        self.command = [python or sys.executable, "-c", BOOT, str(found / "main.py")]
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = Path()
        self.url = ""

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ServerFault: it ended before that; the message has the end of its log.
        """
        for last in (*[False] * (TRIES - 1), True):
            self.stop()
            self.folder = Path(tempfile.mkdtemp(prefix="magicface-"))
            self._launch()
            fault = self._fault()
            if not fault:
                return
            log = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
            self.stop()
            if last:
                raise ServerFault("\n".join([f"ComfyUI {fault}. The end of its log:", *log.splitlines()[-20:]]))

    def stop(self) -> None:
        """End it and delete its folders. Does nothing if none runs."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            if sys.platform == "win32":
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self, file: dict[str, str]) -> None:
        """Delete a file that it saved, by ComfyUI's entry; the disk of a node would be full of them one day."""
        (self.folder / file["type"] / file.get("subfolder", "") / file["filename"]).unlink(missing_ok=True)

    def _launch(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        places = [word for name in FOLDERS for word in (f"--{name}-directory", str(self.folder / name))]
        places[places.index("--temp-directory") + 1] = str(self.folder)  # ComfyUI adds the name
        for name in FOLDERS:
            (self.folder / name).mkdir()
        # Ray allows its workers one thread, and sets paths for its own Python.
        without = ("PYTHONHOME", "PYTHONPATH", "OMP_NUM_THREADS")
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*self.command, str(self.folder), *places, "--listen", "127.0.0.1", "--port", str(port),
                 "--disable-auto-launch", "--database-url", "sqlite:///:memory:", *self.flags],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder,
                start_new_session=sys.platform != "win32",
                env={name: value for name, value in os.environ.items() if name not in without},
            )  # fmt: skip

    def _fault(self) -> str:
        """Wait until it answers; what went wrong if it does not."""
        assert self.process is not None
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                return f"ended with code {self.process.returncode} while starting"
            try:
                if str(self.folder) in Server(self.url, 5.0).arguments():  # else the port is another program's
                    return ""
            except RunError:
                pass
            time.sleep(0.2)
        return f"did not answer within {START_LIMIT_S:.0f} s"


def free_port() -> int:
    """A port of this machine that is free at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
