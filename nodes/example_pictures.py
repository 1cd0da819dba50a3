"""Copies the pictures of the shipped workflows to where `Load Image` finds them."""

import logging
import tempfile
from pathlib import Path

import folder_paths

log = logging.getLogger(__name__)
PICTURES = Path(__file__).parents[1] / "workflows" / "inputs"


def offer_example_pictures() -> None:
    """Copy the pictures that ComfyUI's input folder does not have yet."""
    folder = Path(folder_paths.get_input_directory())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in sorted(PICTURES.glob("magicface_*.png")):
            if not (folder / picture.name).exists():
                # Another ComfyUI with the same folder must never see a part of a file.
                with tempfile.NamedTemporaryFile(dir=folder, prefix=".magicface-", delete=False) as unfinished:
                    unfinished.write(picture.read_bytes())
                Path(unfinished.name).replace(folder / picture.name)
    except OSError as error:
        log.warning("MagicFace: the workflows' example pictures could not be copied into the input folder: %s", error)
