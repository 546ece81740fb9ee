"""The run of chapter `sec-attribute-adversary`: every row of its tables, and what they come to."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nuisance.experiments.attribute_adversary import ROWS, experiment, pretrain, translate
from nuisance.experiments.attribute_adversary_data import HARD, has_objects_on_black
from nuisance.metrics.groups import bootstrap_groups, group_metrics
from nuisance.metrics.intervals import Interval, mean_interval
from nuisance.seeding import generator
from nuisance.study import Run

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """The outcomes of a run, and means over its seeds.

    Attributes
    ----------
    outcomes : of `experiment`, by row and seed.
    sweep : those of the adversary by strength and seed.
    translations : the training images of a class at the other place, uint8 ``[n, 3, h, w]``, by seed and class.
    hard : the number of the group that the study reports.
    """

    outcomes: dict[tuple[str, int], Outcome]
    sweep: dict[tuple[float, int], Outcome]
    translations: dict[tuple[int, int], Tensor]
    seeds: list[int]
    hard: int
    resamples: int

    def rows(self) -> list[str]:
        """The rows that were computed, in the order of `ROWS`."""
        return [row for row in ROWS if (row, self.seeds[0]) in self.outcomes]

    def accuracy(self, row: str, metric: str, rule: str = "gate_then_hard") -> Interval:
        """A test accuracy of `group_metrics`, with Student's interval over seeds, or a bootstrap's where there is one."""
        return self._interval([self.outcomes[row, seed] for seed in self.seeds], metric, rule)

    def swept(self, strength: float, metric: str, rule: str = "gate_then_hard") -> Interval:
        """The same of the adversary of a strength."""
        return self._interval([self.sweep[strength, seed] for seed in self.seeds], metric, rule)

    def difference(
        self, one: tuple[str, str], other: tuple[str, str], rule: str = "gate_then_hard"
    ) -> Interval:
        """(row, metric) minus another, seed by seed: a shared seed means shared images and initial weights."""
        values = [
            self._value(self.outcomes[one[0], seed], one[1], rule)
            - self._value(self.outcomes[other[0], seed], other[1], rule)
            for seed in self.seeds
        ]
        return mean_interval(values)

    def _interval(self, outcomes: list[Outcome], metric: str, rule: str) -> Interval:
        if len(outcomes) > 1 or metric.startswith("probe"):
            return mean_interval([self._value(outcome, metric, rule) for outcome in outcomes])
        of, chosen = outcomes[0], outcomes[0]["chosen"][rule]
        return bootstrap_groups(
            chosen["right"],
            of["groups"],
            train_counts=of["train_counts"],
            hard=self.hard,
            resamples=self.resamples,
            generator=generator(0),
        )[metric]

    def _value(self, outcome: Outcome, metric: str, rule: str) -> float:
        chosen = outcome["chosen"][rule]
        if metric.startswith("probe"):
            return float(chosen[metric])
        metrics = group_metrics(
            chosen["right"], outcome["groups"], train_counts=outcome["train_counts"], hard=self.hard
        )
        return metrics[metric]


def compare(run: Run) -> Results:
    """Train and judge every row for every seed, and the adversary for every strength."""
    p = run.parameters
    settings = {
        name: value
        for name, value in vars(p).items()
        if name
        not in ("scale", "dataset", "seeds", "device", "data_root", "strength", "strengths", "resamples")
    }
    common = {
        "dataset": p.dataset,
        "data_root": str(p.data_root),
        "device": p.device,
        "settings": settings,
    }
    weights = None
    if p.network == "small_cnn":
        weights = run.parts(pretrain, [{"device": p.device, "settings": settings}])[0]
    pairs = [(seed, label) for seed in p.seeds for label in (0, 1)]
    found = run.parts(translate, [{"seed": seed, "label": label} | common for seed, label in pairs])
    translations = dict(zip(pairs, found, strict=True))
    rows = [row for row in ROWS if row != "erm_black" or has_objects_on_black(p.dataset, str(p.data_root))]
    # No adversary at all is balanced ERM: at strength 0 the same weights move in the same way.
    names = [("adversary", strength, seed) for strength in p.strengths for seed in p.seeds if strength]
    names += [(row, p.strength, seed) for row in rows for seed in p.seeds]
    names = list(dict.fromkeys(names))
    cases = [
        {
            "row": row,
            "seed": seed,
            "strength": strength,
            "weights": weights,
            "translations": tuple(translations[seed, label] for label in (0, 1)) if row == "clamp" else None,
        }
        | common
        for row, strength, seed in names
    ]
    by_name = dict(zip(names, run.parts(experiment, cases), strict=True))
    outcomes = {(row, seed): by_name[row, p.strength, seed] for row in rows for seed in p.seeds}
    sweep = {
        (strength, seed): by_name["adversary", strength, seed] if strength else outcomes["erm_balanced", seed]
        for strength in p.strengths
        for seed in p.seeds
    }
    return Results(outcomes, sweep, translations, p.seeds, HARD[p.dataset], p.resamples)
