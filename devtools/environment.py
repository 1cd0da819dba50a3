"""The managed set-up: a virtual environment with pinned packages, and unmodified ComfyUI folders."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import cache, pins
from .archive import unpack

NO_PIP = """\
{python} cannot make a virtual environment with pip: it has neither `ensurepip` nor `pip`.
Install one of them and try again. On Debian and Ubuntu:
    sudo apt install python3-venv
or run dev.py with another Python, version 3.10 to 3.14."""


class SetupError(Exception):
    """The set-up failed; the message says what to do."""


def python() -> Path:
    """The interpreter of the managed environment, which is set up first if it is missing."""
    folder = cache.root() / f"environment-{pins.environment_key()}"
    interpreter = _interpreter(folder)
    # The Python that the environment was made with may have been removed since.
    cache.build_once(folder, _build_environment, works=interpreter.exists)
    return interpreter


def comfyui(which: str = "newest") -> Path:
    """The folder of an unmodified ComfyUI, which is fetched first if it is missing.

    Args:
        which: "newest" or "oldest" of the supported range.
    """
    core = pins.CORES[which]
    interpreter = python()
    folder = cache.root() / f"comfyui-{core.version}-{core.key}"
    return cache.build_once(folder, lambda folder: _build_comfyui(core, interpreter, folder))


def _interpreter(folder: Path) -> Path:
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def _build_environment(folder: Path) -> None:
    print(f"Setting up Python packages in {folder}: once; up to 7 GB and a few minutes", flush=True)
    interpreter = _interpreter(folder)
    # Without pip at first: `venv` fails if it is to install pip and ensurepip is missing.
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    _install_pip(interpreter, folder)
    # The lock is complete, so no dependencies are resolved. Only wheels are allowed, so nothing is built.
    _pip(
        interpreter,
        "install",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "-r",
        str(pins.LOCK),
    )


def _install_pip(interpreter: Path, folder: Path) -> None:
    """Install pip into a new environment: the copy that Python has, or one fetched with the running pip."""
    bundled = subprocess.run(
        [interpreter, "-m", "ensurepip"], env=_environment(), cwd=folder, capture_output=True, check=False
    )
    if bundled.returncode == 0:
        return
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([interpreter, "-c", asked], cwd=folder, capture_output=True, text=True, check=True).stdout
    wanted = folder / "pip.txt"
    wanted.write_text(pins.locked("pip", pins.LOCK.read_text(encoding="utf-8")), encoding="utf-8")
    try:
        # `--target`: older pips do not know `--python`, and Debian's changes `--prefix`.
        _pip(sys.executable, "install", "--no-deps", "--require-hashes", "--target", site.strip(), "-r", str(wanted))
    except SetupError as error:
        raise SetupError(NO_PIP.format(python=sys.executable)) from error


def _build_comfyui(core: pins.Core, interpreter: Path, folder: Path) -> None:
    print(f"Fetching ComfyUI {core.version}", flush=True)
    download = folder / "download"
    download.mkdir(parents=True)
    wanted = download / "wanted.txt"
    wanted.write_text(f"{core.package}=={core.release} --hash=sha256:{core.sha256}\n", encoding="utf-8")
    # pip reads the archive's metadata with a build backend: that of the environment, without isolation, so that nothing
    # unpinned is fetched. The package itself is neither built nor installed; only the ComfyUI in it is used.
    _pip(
        interpreter, "download", "--no-deps", "--no-build-isolation", "--ignore-requires-python",
        "--require-hashes", "--no-binary", core.package, "--dest", str(download), "-r", str(wanted),
    )  # fmt: skip
    archives = list(download.glob("*.tar.gz"))
    if len(archives) != 1:
        raise SetupError(f"pip was asked for the source archive of {core.package} {core.release}, and got {archives}")
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != core.sha256:
        raise SetupError(f"{archives[0].name} has sha256 {found}, expected {core.sha256}: it is not used")
    unpack(archives[0], core.folder, folder)
    shutil.rmtree(download)
    if not (folder / "main.py").is_file():
        raise SetupError(f"{core.package} {core.release} has no ComfyUI in {core.folder}")


def _pip(interpreter: Path | str, command: str, *arguments: str) -> None:
    _run([str(interpreter), "-m", "pip", command, "--disable-pip-version-check", "--no-input", *arguments])


def _run(command: list[str]) -> None:
    """Run a step of the set-up. The child inherits the set-up's lock; see `cache.lock`.

    It does not run in the user's folder: `python -m pip` would import a pip.py there.
    """
    try:
        subprocess.run(command, env=_environment(), cwd=cache.root(), close_fds=False, check=True)
    except subprocess.CalledProcessError as error:
        raise SetupError(f"this step of the set-up failed: {' '.join(command)}") from error


def _environment() -> dict[str, str]:
    """The user's environment variables, pip settings included, without those that would make pip install elsewhere."""
    elsewhere = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    return {name: value for name, value in os.environ.items() if name not in elsewhere}
