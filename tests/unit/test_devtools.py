"""The set-up by dev.py without downloads: pins, cache folder, archive."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from devtools import cache, pins
from devtools.archive import UnsafeArchive, unpack

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and symbolic links")


# --- pins


def test_environment_key_follows_the_lock_and_the_python() -> None:
    key = pins.environment_key("a==1", "cp311")
    assert key == pins.environment_key("a==1", "cp311")
    assert len({key, pins.environment_key("a==2", "cp311"), pins.environment_key("a==1", "cp312")}) == 3


def test_the_digest_separates_its_parts() -> None:
    assert pins.digest("ab", "c") != pins.digest("a", "bc")


def test_each_core_has_its_own_key_and_the_metadata_name_the_oldest() -> None:
    oldest, newest = pins.CORES["oldest"], pins.CORES["newest"]
    assert oldest.key != newest.key
    metadata = (pins.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-comfyui = ">={oldest.version}"\n' in metadata


def test_every_locked_package_has_hashes_and_no_url() -> None:
    lock = pins.LOCK.read_text(encoding="utf-8")
    assert "://" not in lock and "--index" not in lock and "--find-links" not in lock
    for line in lock.splitlines():
        assert line.startswith("    --hash=sha256:") or (line.endswith(" \\") and "==" in line), line


def test_locked_returns_one_entry_with_its_hashes() -> None:
    lock = "pip==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\npipx==2 \\\n    --hash=sha256:cc\n"
    assert pins.locked("pip", lock) == "pip==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    with pytest.raises(KeyError):
        pins.locked("absent", lock)


# --- cache


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAGICFACE_CACHE", str(tmp_path / "here"))
    assert cache.root() == tmp_path / "here"
    monkeypatch.delenv("MAGICFACE_CACHE")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache.root() == tmp_path / "magicface"


def test_an_interrupted_build_starts_over_from_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "thing-key"

    def interrupted(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.build_once(folder, interrupted)
    seen: list[bool] = []

    def whole(folder: Path) -> None:
        seen.append(folder.exists())
        folder.mkdir()
        (folder / "whole").write_text("whole")

    assert cache.build_once(folder, whole) == folder
    cache.build_once(folder, whole)
    assert seen == [False], "built once, in an empty folder"
    assert (folder / "whole").is_file() and not (folder / "half").exists()


def test_a_build_that_no_longer_works_is_made_again(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        folder.mkdir()
        built.append(folder)

    cache.build_once(tmp_path / "thing", build)
    cache.build_once(tmp_path / "thing", build, works=lambda: len(built) > 1)
    assert len(built) == 2


def test_two_parallel_set_ups_build_once(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.path.insert(0, {str(pins.ROOT)!r})
from pathlib import Path
from devtools import cache
def build(folder):
    folder.mkdir()
    print("built", flush=True)
    time.sleep(1)
cache.build_once(Path({str(tmp_path / "thing")!r}), build)
"""
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(output.count("built") for output in outputs) == 1


@posix_only
def test_a_child_of_a_killed_set_up_keeps_the_lock(tmp_path: Path) -> None:
    program = f"""
import subprocess, sys
sys.path.insert(0, {str(pins.ROOT)!r})
from pathlib import Path
from devtools import cache
with cache.lock(Path({str(tmp_path / "lock")!r})):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    print(child.pid, flush=True)
    child.wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    lock = FileLock(tmp_path / "lock")
    with pytest.raises(Timeout):
        lock.acquire(blocking=False)
    os.kill(child, signal.SIGKILL)
    lock.acquire(timeout=10)
    lock.release()


# --- archive


def archive_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            content = b"text" if member.isfile() else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_unpack_extracts_the_inner_folder_only(tmp_path: Path) -> None:
    archive = archive_of(
        tmp_path / "a.tar.gz",
        member("top/setup.py"),
        member("top/vendor", tarfile.DIRTYPE),
        member("top/vendor/ComfyUI", tarfile.DIRTYPE),
        member("top/vendor/ComfyUI/main.py"),
        member("top/vendor/ComfyUI/models/empty", tarfile.DIRTYPE),
        member("top/vendor/ComfyUI/comfy/sd.py"),
        member("top/vendor/Other/x.py"),
    )
    unpack(archive, "vendor/ComfyUI", tmp_path / "out")
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*"))
    assert found == ["comfy", "comfy/sd.py", "main.py", "models", "models/empty"]
    assert (tmp_path / "out" / "main.py").read_bytes() == b"text"


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python has no filter for archives")
@pytest.mark.parametrize(
    "bad",
    [
        member("top/vendor/ComfyUI/../../../escaped"),
        member("top/vendor/ComfyUI/link", tarfile.SYMTYPE, "/etc"),
        member("top/vendor/ComfyUI/hard", tarfile.LNKTYPE, "top/setup.py"),
        member("top/vendor/ComfyUI/device", tarfile.CHRTYPE),
        pytest.param(
            member("top/vendor/ComfyUI/c:\\escaped"),
            marks=pytest.mark.skipif(os.name != "nt", reason="elsewhere this is the name of a plain file"),
        ),
        member("top/vendor/ComfyUI"),
    ],
    ids=["parent", "symlink", "hardlink", "device", "drive", "file"],
)
def test_unpack_refuses_what_could_escape(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", bad)
    with pytest.raises(UnsafeArchive):
        unpack(archive, "vendor/ComfyUI", tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("escaped"))
