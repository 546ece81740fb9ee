"""Means with intervals over seeds, and the verdicts that they allow."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Verdict = Literal["holds", "fails", "inconclusive"]


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval; infinite ends where one value is all there is."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"{self.value:.3f} (one seed)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean over seeds with Student's t interval, ``mean +- t * s / sqrt(n)``.

    For differences between methods give the differences seed by seed: a shared seed means shared
    data and colours, so the paired interval is the right one and the narrower one.

    >>> mean_interval([1.0, 2.0, 3.0])  # t(2 degrees, 95 %) = 4.303; s / sqrt(n) = 0.577
    Interval(value=2.0, low=-0.484..., high=4.484...)
    """
    if not values:
        raise ValueError("no values to average")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Condition:
    """A statement about a mean: that it is at least, at most, or (strictly) above a bound."""

    what: str
    interval: Interval
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None

    def verdict(self) -> Verdict:
        """Holds if the whole interval satisfies it, fails if none of it does, else inconclusive."""
        low, high = self.interval.low, self.interval.high
        lower = -math.inf if self.at_least is None else self.at_least
        upper = math.inf if self.at_most is None else self.at_most
        if self.above is not None:
            if high <= self.above:
                return "fails"
            if low <= self.above:
                return "inconclusive"
        if lower <= low and high <= upper:
            return "holds"
        return "fails" if high < lower or low > upper else "inconclusive"

    def __str__(self) -> str:
        bounds = [f">= {self.at_least:g}" if self.at_least is not None else ""]
        bounds += [f"<= {self.at_most:g}" if self.at_most is not None else ""]
        bounds += [f"> {self.above:g}" if self.above is not None else ""]
        return f"{self.what} {self.interval}, wanted {' and '.join(filter(None, bounds))}"


def joint_verdict(conditions: Iterable[Condition]) -> Verdict:
    """The verdict on a claim that all conditions hold: one failure is enough to fail it."""
    verdicts = {condition.verdict() for condition in conditions}
    if "fails" in verdicts:
        return "fails"
    return "holds" if verdicts == {"holds"} else "inconclusive"
