"""`dev.py serve`: ComfyUI with the pack and its example pictures, for use in a browser."""

from __future__ import annotations

import sys
from pathlib import Path

from filelock import FileLock, Timeout

from . import cache
from .install import chosen
from .pins import ROOT, digest
from .server import Server, ServerError, is_free

USUAL_PORT = 8188


def main(port: int | None, base: Path | None = None) -> int:
    """Serve until Ctrl-C.

    Args:
        port: port to listen on; None for 8188, or a free one if that is in use.
        base: ComfyUI's folder for settings, input and output; None for a permanent one of this checkout.
    """
    install = chosen()
    base = base or cache.root() / f"serve-{digest(str(ROOT))}"
    if port is None and is_free(USUAL_PORT):
        port = USUAL_PORT
    base.mkdir(parents=True, exist_ok=True)
    server = Server(install, base, port)
    try:
        # One server at a time: ComfyUI empties the base's temp folder when it starts and when it ends.
        with FileLock(base / "serve.lock", blocking=False):
            print("Starting ComfyUI", flush=True)
            with server:
                print(f"ComfyUI with MagicFace: {server.url}")
                print("Its workflows are in the template browser, its pictures in the input folder.")
                print(f"Settings, input and output are in {server.base}. Ctrl-C stops it.", flush=True)
                code = server.wait()
    except Timeout:
        print(f"dev.py serve: another server uses {base}: stop it or give another --base", file=sys.stderr)
        return 1
    except ServerError as error:
        print(f"dev.py serve: {error}", file=sys.stderr)
        return 1
    print(f"ComfyUI ended with exit code {code}. The end of its log:\n{server.log_tail()}", file=sys.stderr)
    return 1
