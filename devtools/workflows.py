"""`dev.py workflows`: the files made from the shipped workflows: API format, thumbnails, pictures of the docs."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from . import demo_pictures, help_pictures
from .api_format import API_WORKFLOWS, WORKFLOWS, write_api_workflows
from .client import PromptError
from .contact_sheet import save_small
from .demo import PICTURES, DemoError, make_pictures
from .install import chosen
from .model import with_model
from .pins import ROOT
from .server import Server

_MAX_SIDE_PX = 760
# Workflows that the small model cannot run, and the workflow whose thumbnail they get.
NOT_RUN = {"magicface_sam3_masks": "magicface_two_concepts"}


def main(pictures: bool) -> int:
    """Write the workflows in API format, with a real server for the order of the widgets, and the pictures if asked.

    Args:
        pictures: run every workflow on the small model for thumbnails and the pictures of the docs.
    """
    with (
        tempfile.TemporaryDirectory(prefix="magicface-workflows-", ignore_cleanup_errors=True) as folder,
        Server(chosen(), Path(folder, "base")) as server,
    ):
        for file in write_api_workflows(server.client.get_json("/object_info")):
            print(file.relative_to(ROOT), flush=True)
        for file in sorted(API_WORKFLOWS.glob("*.json")) if pictures else ():
            if file.stem in NOT_RUN:
                continue
            prompt = with_model(json.loads(file.read_text(encoding="utf-8")))
            try:
                *_, sheet = make_pictures(server.client, {"": prompt}, [PICTURES], Path(folder, file.stem))
            except (DemoError, PromptError) as error:
                print(f"dev.py workflows: {file.name}: {error}", file=sys.stderr)
                return 1
            thumbnail = WORKFLOWS / f"{file.stem}.jpg"
            with Image.open(sheet) as picture:
                save_small(picture, thumbnail, _MAX_SIDE_PX)
            print(thumbnail.relative_to(ROOT), flush=True)
        for name, like in NOT_RUN.items() if pictures else ():
            shutil.copyfile(WORKFLOWS / f"{like}.jpg", WORKFLOWS / f"{name}.jpg")
        for file in demo_pictures.write(server.client, Path(folder)) if pictures else ():
            print(file.relative_to(ROOT), flush=True)
        for name in help_pictures.HELP_PICTURES if pictures else ():
            print(help_pictures.write(server.client, name).relative_to(ROOT), flush=True)
    return 0
