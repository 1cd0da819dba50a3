"""Starts and stops a real ComfyUI server with this pack, in a base folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from .client import Client
from .install import Install
from .links import link
from .pins import ROOT

PACKS = {"magicface": ROOT, "magicface_dev": ROOT / "devtools" / "tiny_pack"}
START_LIMIT_S = 300
STOP_LIMIT_S = 10
PORT_TRIES = 5

# Exits with 0 if torch can compute on a device that ComfyUI uses without further flags.
HAS_GPU = """
import sys, torch
for name in ("cuda", "xpu", "mps"):
    part = getattr(torch.backends, name) if name == "mps" else getattr(torch, name, None)
    if part is not None and part.is_available():
        torch.ones(1, device=name).add(1).cpu()
        sys.exit(0)
sys.exit(1)
"""


class ServerError(Exception):
    """The server did not start, or it ended; the message shows the end of its log."""


class Server:
    """A ComfyUI server on a loopback port, as a context manager.

    Everything that it writes is in its base folder: input, output, temp, user, custom_nodes and its log. The install
    and the checkout are only read.
    """

    def __init__(self, install: Install, base: Path, port: int | None = None, flags: tuple[str, ...] = ()) -> None:
        """
        Args:
            install: the ComfyUI to run.
            base: folder for `--base-directory`; it is created if missing.
            port: a port that must be free, or None for any free one.
            flags: further arguments of ComfyUI's main.py.
        """
        self.install = install
        self.base = base.resolve()
        self.log = self.base / "server.log"
        self.port = port or 0
        self._fixed_port = port is not None
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        return Client(self.url)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return as soon as it answers.

        Raises:
            ServerError: it ended before it answered, or the given port is in use.
        """
        prepare_base(self.base)
        command = [*self._command(), *([] if has_gpu(self.install.python, self.base) else ["--cpu"])]
        for attempt in range(1, PORT_TRIES + 1):
            if not self._fixed_port:
                self.port = free_port()
            elif not is_free(self.port):
                raise ServerError(f"port {self.port} is in use by another program: choose another with --port")
            self._launch([*command, "--port", str(self.port)])
            try:
                self._wait_until_ready()
                return
            except BaseException as error:
                self.stop()
                # Another program may have opened the port since it was found free.
                lost_port = isinstance(error, ServerError) and not self._fixed_port and not is_free(self.port)
                if not lost_port or attempt == PORT_TRIES:
                    raise

    def stop(self) -> None:
        """End the server and the processes that it started. Does nothing if none runs."""
        process, self._process = self._process, None
        if process is None:
            return
        with _ctrl_c_ignored():
            for ending in ("SIGTERM", "SIGKILL"):
                _signal_group(process, ending)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_LIMIT_S)

    def wait(self) -> int:
        """Wait until the server ends by itself; returns its exit code."""
        assert self._process is not None, "the server was not started"
        return self._process.wait()

    @property
    def process_id(self) -> int | None:
        """The id of the server's process and of its process group; None if none was started."""
        return None if self._process is None else self._process.pid

    def resident_bytes(self) -> int:
        """Resident memory of the server's process. It needs a system with /proc."""
        assert self._process is not None, "the server was not started"
        pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def log_tail(self, lines: int = 30) -> str:
        """The end of the server's log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _command(self) -> list[str]:
        command = [
            str(self.install.python), str(self.install.comfyui / "main.py"),
            "--listen", "127.0.0.1", "--disable-auto-launch", "--use-pytorch-cross-attention",
            "--base-directory", str(self.base),
            # By default the database is in ComfyUI's folder, where only one server can use it.
            "--database-url", "sqlite:///:memory:",
        ]  # fmt: skip
        if self.install.own:
            command += ["--extra-model-paths-config", str(_model_paths(self.install, self.base))]
        return [*command, *self._flags]

    def _launch(self, command: list[str]) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
        environment["PYTHONUNBUFFERED"] = "1"
        environment["PYTHONIOENCODING"] = "utf-8"
        if self.install.own:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        # A process group of its own: Ctrl-C does not reach it, and all of it can be ended.
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.base, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=sys.platform != "win32",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )  # fmt: skip

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                reason = f"ended with code {self._process.returncode} while starting"
                break
            if self._is_ours():
                return
            time.sleep(0.2)
        else:
            reason = f"did not answer within {START_LIMIT_S} s"
        raise ServerError(f"ComfyUI {reason}. The end of its log, {self.log}:\n{self.log_tail()}")

    def _is_ours(self) -> bool:
        """Whether this server answers on the port, and not another program."""
        try:
            stats = self.client.get_json("/system_stats", timeout=5)
            return str(self.base) in stats["system"]["argv"]
        except (OSError, ValueError, LookupError, TypeError):
            return False


def prepare_base(base: Path) -> None:
    """Create a base folder whose only packs are links to this checkout and its development pack.

    The checkout's parent is not used as a folder of packs: other checkouts may be there.
    """
    for folder in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, source in PACKS.items():
        link(source, base / "custom_nodes" / name)


def has_gpu(python: Path, folder: Path) -> bool:
    """Whether this Python's torch can compute on a GPU. The folder must not contain modules: Python imports from it."""
    probe = subprocess.run([python, "-c", HAS_GPU], cwd=folder, capture_output=True, check=False)
    return probe.returncode == 0


def free_port() -> int:
    """A loopback port that is free at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as listener:
        if os.name != "nt":
            # As servers do. Without it a port looks used for a while after its connections are closed.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _model_paths(install: Install, base: Path) -> Path:
    """Write a file that lets the server read the models of the user's own install."""
    models = install.comfyui / "models"
    folders = sorted(folder.name for folder in models.iterdir() if folder.is_dir()) if models.is_dir() else []
    file = base / "models_of_the_install.yaml"
    # JSON is YAML.
    paths = {"base_path": str(models), **{name: name for name in folders if name != "configs"}}
    file.write_text(json.dumps({"install": paths}), encoding="utf-8")
    return file


def _signal_group(process: subprocess.Popen[bytes], name: str) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, getattr(signal, name))


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Ignore Ctrl-C for a while: a second one must not leave the server running."""
    try:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # only the main thread gets Ctrl-C, and may change how it is handled
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
