"""The pictures that the shipped workflows read, put where `Load Image` looks for them."""

import logging
import tempfile
from pathlib import Path

import folder_paths

log = logging.getLogger(__name__)
PICTURES = Path(__file__).parents[1] / "workflows" / "inputs"


def offer_example_pictures() -> None:
    """Copy those that are not there yet into ComfyUI's input folder."""
    folder = Path(folder_paths.get_input_directory())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in sorted(PICTURES.glob("magicface_*.png")):
            if not (folder / picture.name).exists():
                # Another ComfyUI with the same folder must not see half a file.
                with tempfile.NamedTemporaryFile(dir=folder, prefix=".magicface-", delete=False) as half_made:
                    half_made.write(picture.read_bytes())
                Path(half_made.name).replace(folder / picture.name)
    except OSError as error:
        log.warning("MagicFace: the workflows' example pictures could not be copied into the input folder: %s", error)
