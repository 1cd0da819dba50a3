"""What a run did, and what it did less than it was asked for."""

import logging
from dataclasses import dataclass

from ..findings import Findings
from ..method import Method
from ..regions.history import StepRegions


@dataclass
class Outcome:
    """What a run has done so far.

    Attributes:
        acted: whether any noise level was between start and end.
        injected: whether anything attended to the references.
        segmented: whether any regions were found.
        guided, unguided: evaluations with semantic guidance, and those that had to go without.
    """

    acted: bool = False
    injected: bool = False
    segmented: bool = False
    guided: int = 0
    unguided: int = 0

    def report(self, method: Method, findings: Findings, last: StepRegions | None, positive_is_zeroed: bool) -> None:
        """Add the findings of a whole run, whose last step with regions is given."""
        if not self.acted:
            start, end = method.schedule.start, method.schedule.end
            findings.add(
                "the method did nothing, because none of this run's noise levels is between start"
                f" ({start:g}) and end ({end:g}) of MagicFace Schedule."
            )
        elif not self.injected:
            findings.add(
                "nothing attended to the references, because no evaluation requested the guider's positive prompt:"
                " another node of this model passes on another one in its place."
            )
        elif not self.segmented:
            reason = " (the positive prompt is zeroed out)" if positive_is_zeroed else ""
            findings.add(
                f"no regions were found{reason}, so the whole picture attended to all references until the end, and"
                " there was no semantic guidance."
            )
        elif last is not None:
            found = last.concepts.unique().tolist()
            concepts = enumerate(method.concepts)
            missing = [repr(c.concept) for i, c in concepts if method.is_active(c) and i not in found]
            if missing:
                findings.add(f"no region was found for {', '.join(missing)} in the last step.")
        if self.unguided:
            findings.add(
                f"semantic guidance was off in {self.unguided} of {self.unguided + self.guided} evaluations: it needs"
                " exactly one positive and one negative prompt.",
                logging.INFO,
            )
