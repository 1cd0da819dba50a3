"""What a run did, and what it did less than it was asked for."""

import logging
from dataclasses import dataclass, field

from ...attention.schedule import Stage
from ..findings import Findings
from ..method import Method
from ..regions.history import StepRegions
from .evaluation import Evaluation


@dataclass
class Outcome:
    """What a run has done so far.

    Attributes:
        inherited: whether it began with the regions of an earlier run.
        segmented: whether it found any regions.
        evaluations, acted: all evaluations, and those between start and end.
        prompted, prompt_on: those that requested the positive prompt, and those in which any of it was on.
        attended: those in which anything attended to the references.
        stages: of these.
        guided, unguided: evaluations with semantic guidance, and those that had to go without.
    """

    inherited: bool = False
    segmented: bool = False
    evaluations: int = 0
    acted: int = 0
    prompted: int = 0
    prompt_on: int = 0
    attended: int = 0
    stages: set[Stage] = field(default_factory=set)
    guided: int = 0
    unguided: int = 0

    def add(self, evaluation: Evaluation) -> None:
        """Count an evaluation that has ended."""
        self.evaluations += 1
        self.acted += evaluation.stage is not Stage.OFF
        self.prompted += evaluation.prompted
        self.prompt_on += bool(evaluation.kv)
        self.attended += evaluation.attended
        if evaluation.attended:
            self.stages.add(evaluation.stage)

    def report(
        self, method: Method, findings: Findings, steps: int, last: StepRegions | None, positive_is_zeroed: bool
    ) -> None:
        """Add the findings of a whole run of some steps, whose last step with regions is given."""
        nothing = self._nothing(method, steps)
        if nothing:
            findings.add(nothing)
            return
        changed, skipped = self.acted - self.prompted, self.prompt_on - self.attended
        if changed:
            findings.add(
                f"in {changed} of {self.acted} evaluations nothing attended to the references: another node changed or"
                " left out the positive prompt there."
            )
        if skipped > 0:
            findings.add(
                f"in {skipped} of {self.acted} evaluations nothing attended to the references: another node skipped"
                " the UNet there, or dropped the options of its calls.",
                logging.INFO,
            )
        for reference in method.references:
            if reference.active and not any(reference.weight_at(stage) for stage in self.stages):
                stages = " and ".join(stage.value for stage in self.stages)
                findings.add(
                    f"reference {reference.concept!r} had no effect: its weight is 0 in the only stage that this run"
                    f" has ({stages})."
                )
        self._report_regions(method, findings, last, positive_is_zeroed)

    def _nothing(self, method: Method, steps: int) -> str:
        """Why the method did nothing; empty if it did something."""
        start, end = method.schedule.start, method.schedule.end
        because = "nothing attended to the references, because"
        if not steps:
            return "the method did nothing, because the run has no steps."
        if not self.evaluations:
            return "the method did nothing: another node removed MagicFace's wrappers from the run."
        if not self.acted:
            return (
                "the method did nothing, because none of this run's noise levels is between start"
                f" ({start:g}) and end ({end:g}) of MagicFace Schedule."
            )
        if not self.prompted:
            return (
                f"{because} no evaluation requested the guider's positive prompt: another node of this model passes on"
                " another one in its place."
            )
        if not self.prompt_on:
            return f"{because} the positive prompt is on at none of the run's noise levels between start and end."
        if not self.attended:
            return (
                f"{because} no call of the UNet carried the positive prompt: another node drops the options of the"
                " calls (uuids, wrappers) or splits their rows."
            )
        return ""

    def _report_regions(
        self, method: Method, findings: Findings, last: StepRegions | None, positive_is_zeroed: bool
    ) -> None:
        if not self.segmented:
            reason = " (the positive prompt is zeroed out)" if positive_is_zeroed else ""
            rest = "so the whole picture attended to all references until the end, and there was no semantic guidance."
            if self.inherited:
                rest = "so those of the run before stayed."
            findings.add(f"no regions were found{reason}, {rest}")
        elif last is not None:
            found = last.concepts.unique().tolist()
            concepts = enumerate(method.concepts)
            missing = [repr(c.concept) for i, c in concepts if method.is_active(c) and i not in found]
            if missing:
                findings.add(f"no region was found for {', '.join(missing)} in the last step.")
        if self.unguided:
            findings.add(
                f"semantic guidance was off in {self.unguided} of {self.unguided + self.guided} evaluations: it needs"
                " exactly one positive and one negative prompt, requested together.",
                logging.INFO,
            )
