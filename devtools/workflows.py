"""`dev.py workflows`: what is made from the shipped workflows: API twins, thumbnails, pictures of the help pages."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

from . import help_pictures
from .api_format import TWINS, WORKFLOWS, write_twins
from .client import PromptError
from .contact_sheet import save_small
from .demo import PICTURES, DemoError, make_pictures
from .install import chosen
from .model import with_model
from .pins import ROOT
from .server import Server

_WIDEST_PX = 760


def main(pictures: bool) -> int:
    """Write the twins, asking a real server for the order of the widgets; and the pictures, if they are wanted.

    Args:
        pictures: run every workflow on the small model, for thumbnails and help pages.
    """
    with (
        tempfile.TemporaryDirectory(prefix="magicface-workflows-", ignore_cleanup_errors=True) as folder,
        Server(chosen(), Path(folder, "base")) as server,
    ):
        for twin in write_twins(server.client.get_json("/object_info")):
            print(twin.relative_to(ROOT), flush=True)
        for twin in sorted(TWINS.glob("*.json")) if pictures else ():
            prompt = with_model(json.loads(twin.read_text(encoding="utf-8")))
            try:
                *_, sheet = make_pictures(server.client, prompt, [PICTURES], Path(folder, twin.stem))
            except (DemoError, PromptError) as error:
                print(f"dev.py workflows: {twin.name}: {error}", file=sys.stderr)
                return 1
            thumbnail = WORKFLOWS / f"{twin.stem}.jpg"
            with Image.open(sheet) as picture:
                save_small(picture, thumbnail, _WIDEST_PX)
            print(thumbnail.relative_to(ROOT), flush=True)
        for name in help_pictures.HELP_PICTURES if pictures else ():
            print(help_pictures.write(server.client, name).relative_to(ROOT), flush=True)
    return 0
