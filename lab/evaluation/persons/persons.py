"""`dev.py evaluate --persons`: two persons in one picture, measured on the small model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...figures import write
from ...judge import SIDE_PX, look
from ..evaluate import READ, in_turns, tools
from ..measures import measure
from ..rows import ROWS
from ..sheets import as_image, as_tensor, reference, save_joined
from ..tables import PERSON_MEASURES, Figures, Scores, difference_table, figures_of, main_table
from .halves import look_at_halves
from .measures import measure_pair
from .pairs import SIDES, Mask, Masks, Pair, half, pair

HERE, SEEN = "exactly here", "exactly here, as seen"
SKETCHED, SKETCH = "exactly here, from a sketch", "none, from a sketch"
ALONE = "alone"
# Four rows use the same references, so these are cached.
SETTINGS = replace(ROWS["as shipped"], schedule={"cache_mb": 1024})
COMPARED = ("fidelity", "leakage")  # with the row ALONE, in which there is nobody else
DENOISE = 0.75  # from the layout, as a sketch of where the persons are
SHOWN = ("none", "words alone", "only within", SEEN, HERE, SKETCHED)
SHEETS = 3  # in the picture of docs/evaluation.md
_ENOUGH_PX = 8  # of a part that is seen, to use it as a mask


def main(numbers: range, file: Path | None, pictures: Path | None) -> int:
    """Make the pictures, measure them and print the tables.

    Args:
        numbers: of the pairs.
        file: for the figures as JSON.
        pictures: folder for a contact sheet of each pair.
    """
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    table = in_turns(partial(work, pictures=pictures), numbers)
    figures = {"pairs": list(numbers), **figures_of(table, ALONE, COMPARED)}
    if file:
        write(file, {"persons": figures})
    if pictures:
        save_joined([pictures / f"{number:03d}.png" for number in numbers[:SHEETS]], pictures / "persons.jpg")
    print("\n".join(["", *(line for lines in (*tables(figures).values(), READ) for line in (*lines, ""))]))
    return 0


def tables(figures: Figures) -> dict[str, list[str]]:
    """Lines of the tables: means, and differences to the row ALONE."""
    return {
        "persons": main_table(figures, measures=PERSON_MEASURES),
        "persons-differences": difference_table(figures, base=ALONE, measures=COMPARED),
    }


def work(number: int, pictures: Path | None) -> dict[str, Scores]:
    """The scores of one pair by row; also saves its contact sheet if a folder is given."""
    judge, studio = tools()
    wanted = pair(number)
    made = pictures_of(studio, judge, wanted)
    masks = dict.fromkeys((HERE, SKETCHED), wanted.masks) | {SEEN: seen_masks(judge, made["none"], wanted.masks)}
    scores = {name: measure_pair(look_at_halves(judge, its), wanted, masks.get(name)) for name, its in made.items()}
    alone = []
    for one in wanted.alone:
        its = studio.make(one, SETTINGS)
        alone.append(measure(look(judge, its.picture[None]), its, one))
    kinds = [kind for kind in alone[0].keys() & alone[1] if kind.split()[0] in ("fidelity", "leakage")]
    scores[ALONE] = {kind: (alone[0][kind] + alone[1][kind]) / 2 for kind in sorted(kinds)}
    if pictures:
        save_sheet(wanted, made, pictures / f"{number:03d}.png")
    return scores


def pictures_of(studio: Any, judge: Any, wanted: Pair) -> dict[str, Tensor]:
    """(256, 256, 3) the pictures of two persons, by row."""

    def sample(mask_of: Callable[[int, str], Mask | None], how: str, **start: Any) -> Tensor:
        references = []
        place = studio.pack.nodes.region.MagicFaceRegion.execute
        for person, concept in wanted.concepts:
            reference, mask = studio.reference(concept, SETTINGS), mask_of(person, concept.part)
            if mask is not None:
                reference = place(reference, torch.from_numpy(mask.astype(np.float32))[None], how, 0).result[0]
            references.append(reference)
        made: Tensor = studio.sample(wanted.prompt, tuple(references), SETTINGS, wanted.number, **start).picture
        return made

    sketch = {"start": as_tensor(wanted.layout.picture), "denoise": DENOISE}
    none, none_sketched = (
        studio.sample(wanted.prompt, (), SETTINGS, wanted.number, **start).picture for start in ({}, sketch)
    )
    of_layout, as_seen = wanted.masks, seen_masks(judge, none, wanted.masks)
    return {
        "none": none,
        "words alone": sample(lambda person, part: None, ""),
        "only within": sample(lambda person, part: half(person), "only within"),
        SEEN: sample(lambda person, part: as_seen[person, part], "exactly here"),
        HERE: sample(lambda person, part: of_layout[person, part], "exactly here"),
        SKETCHED: sample(lambda person, part: of_layout[person, part], "exactly here", **sketch),
        SKETCH: none_sketched,
        "drawn": as_tensor(wanted.drawn()),
    }


def seen_masks(judge: Any, picture: Tensor, otherwise: Masks) -> Masks:
    """Where the judge sees each part of each person in a picture; the given mask if that is next to nothing."""
    verdict, found = look_at_halves(judge, picture), {}
    for (person, part), mask in otherwise.items():
        seen: Mask = verdict.pixels_of(part)[0].numpy() & half(person, SIDE_PX)
        step = mask.shape[0] // SIDE_PX
        larger = seen.repeat(step, axis=0).repeat(step, axis=1)
        found[person, part] = larger if seen.sum() >= _ENOUGH_PX else mask
    return found


def save_sheet(wanted: Pair, made: Mapping[str, Any], file: Path) -> None:
    """Save the references of the left and the right person, and below them the pictures."""
    from devtools.contact_sheet import Entry, contact_sheet

    references = [
        reference(concept, f"{side}: {concept.part}")
        for side, concepts in zip(SIDES, wanted.persons, strict=True)
        for concept in concepts
    ]
    entries = [Entry(as_image(its), name) for name, its in made.items() if name in SHOWN]
    contact_sheet([references, entries]).save(file)
