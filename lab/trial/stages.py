"""The three job lists of a trial, each of which needs what the one before it made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from devtools.client import Prompt

from .concepts import Concept
from .errors import TrialError
from .grid import WITHOUT, Variant
from .host import Host
from .jobs import Outcome, run_jobs
from .measures import Run, read_masks
from .meter import Meter
from .prompts import SEED, job, references_in


class Stages:
    """Runs the lists on a server, in a folder where an interrupted trial goes on."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        folder.mkdir(parents=True, exist_ok=True)

    def references(self, concepts: Sequence[Concept], prompts: Sequence[Prompt]) -> list[Outcome]:
        """The masks that words find in the references.

        Args:
            concepts: the references.
            prompts: for each, one that finds its word.
        """
        rows = []
        for number, (concept, prompt) in enumerate(zip(concepts, prompts, strict=True), 1):
            workflow = self._write(f"words_in_reference_{number}", prompt)
            picture = {references_in(prompt)[0]: str(concept.picture)}
            rows.append(job(f"reference-{number}", workflow=workflow, picture=picture))
        print(f"Finding {len(concepts)} words in their pictures", flush=True)
        return list(self._run("references", rows).values())

    def pictures(
        self, concepts: Sequence[Concept], prompts: tuple[Prompt, Prompt], variants: Iterable[tuple[Variant, int]]
    ) -> list[Run]:
        """The pictures of all variants with their seeds, and their regions.

        Args:
            concepts: each with a mask.
            prompts: with and without MagicFace.
            variants: each with a seed.
        """
        with_it, without = (self._write(name, one) for name, one in zip(("with", "without"), prompts, strict=True))
        references = references_in(prompts[0])
        pictures = {key: str(one.picture) for key, one in zip(references, concepts, strict=True)}
        masks = {key: str(one.mask) for key, one in zip(references, concepts, strict=True)}
        runs = {f"{variant.id}-{seed}": Run(variant, seed) for variant, seed in variants}
        rows = []
        for name, run in runs.items():
            files: dict[str, Any] = {"workflow": without}
            if run.variant.id != WITHOUT:
                files = {"workflow": with_it, "picture": pictures, "mask": masks}
            rows.append(job(name, **files, set={SEED: run.seed, **run.variant.options}))
        print(f"Making {len(rows)} pictures", flush=True)
        with Meter(self.host, self.folder / "memory.json") as meter:
            outcomes = self._run("pictures", rows)
        words = [concept.word for concept in concepts]
        return [_made(runs[name], of, words, meter.most_mb.get(name)) for name, of in outcomes.items()]

    def words(self, runs: Sequence[Run], prompt: Prompt, words: Sequence[str]) -> list[Run]:
        """The same runs with the masks that words find in their pictures.

        Args:
            runs: those that failed stay as they are.
            prompt: finds all words in one picture.
            words: of the concepts.
        """
        workflow, (reference,) = self._write("words_in_picture", prompt), references_in(prompt)
        made = {f"{run.variant.id}-{run.seed}": run for run in runs if run.picture}
        rows = [job(name, workflow=workflow, picture={reference: str(run.picture)}) for name, run in made.items()]
        print(f"Finding the words in {len(rows)} pictures", flush=True)
        outcomes = self._run("words", rows)
        found = {name: replace(made[name], words=read_masks(of.files, words)) for name, of in outcomes.items()}
        return [found.get(f"{run.variant.id}-{run.seed}", run) for run in runs]

    def _write(self, name: str, prompt: Prompt) -> str:
        file = self.folder.resolve() / f"{name}.json"
        file.write_text(json.dumps(prompt, indent=1) + "\n", encoding="utf-8")
        return str(file)

    def _run(self, name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Outcome]:
        return run_jobs(self.host.client.url, self.folder / name, rows)


def _made(run: Run, outcome: Outcome, words: Sequence[str], memory_mb: int | None) -> Run:
    if outcome.error or not outcome.files:
        return replace(run, error=outcome.error or "no picture was saved")
    picture, *regions = outcome.files
    return replace(
        run,
        picture=picture.resolve(),
        regions=read_masks(regions, words),
        seconds=outcome.seconds,
        memory_mb=memory_mb,
        findings=outcome.told,
    )


def with_masks(concepts: Sequence[Concept], outcomes: Sequence[Outcome]) -> list[Concept]:
    """The references with the masks that were found where none was given.

    Raises:
        TrialError: none was given or found.
    """
    for concept, outcome in zip(concepts, outcomes, strict=True):
        if concept.mask is None and not outcome.files:
            raise TrialError(f"no mask of {concept.word!r} was found in {concept.picture.name}: {outcome.error}")
    return [
        concept if concept.mask else replace(concept, mask=outcome.files[0].resolve())
        for concept, outcome in zip(concepts, outcomes, strict=True)
    ]
