"""The noise levels at which references are computed (docs/method.md#refresh)."""

from bisect import bisect_right
from typing import Any

_ROUNDING = 1e-4  # A level at the end of a part belongs to the next one, whatever its last bits.


class ReferenceLevels:
    """Maps the noise level of an evaluation to the one at which references are computed for it.

    Sampling, in ComfyUI's percent convention, is divided into equal parts. References are computed once for each part,
    at its middle. So they depend neither on the sampler nor on where a run begins.
    """

    def __init__(self, refresh: float, model_sampling: Any) -> None:
        """Divide sampling into round(1 / refresh) parts; a refresh of 0 keeps every level (0..1)."""
        self._ends: list[float] = []
        self._middles: list[float] = []
        if refresh:
            parts = max(1, round(1 / refresh))
            # Negative, because bisect expects ascending values and sigma descends.
            ends = (float(model_sampling.percent_to_sigma(part / parts)) for part in range(1, parts))
            self._ends = [-end * (1 + _ROUNDING) for end in ends]
            self._middles = [float(model_sampling.percent_to_sigma((part + 0.5) / parts)) for part in range(parts)]

    def level_for(self, sigma: float) -> float:
        """The noise level at which references are computed for an evaluation at sigma."""
        return self._middles[bisect_right(self._ends, -sigma)] if self._middles else sigma
