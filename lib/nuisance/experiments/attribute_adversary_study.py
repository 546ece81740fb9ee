"""The run of chapter `sec-attribute-adversary`: every row of its tables, and what they come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nuisance.errors import ParameterError
from nuisance.experiments.attribute_adversary import ROWS, experiment, pretrain, probe_start, translate
from nuisance.experiments.attribute_adversary_data import HARD, has_objects_on_black
from nuisance.metrics.groups import bootstrap_groups, group_metrics
from nuisance.metrics.intervals import Interval, mean_interval
from nuisance.seeding import generator
from nuisance.study import Run

Outcome = dict[str, Any]

PRETRAINING = ("size", "pretraining_epochs")
TRANSLATION = (
    "size",
    "images",
    "batch_size",
    "translator_width",
    "translator_rate",
    "translator_cycle",
    "translator_steps",
)
TRAINING = (
    "network",
    "size",
    "images",
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "gate",
    "adversary_width",
    "adversary_steps",
    "adversary_rate",
    "dro_step",
    "dro_adjustment",
    "patch_weight",
    "patch_adjustment",
    "probe_epochs",
)
PROBE = ("network", "size", "images", "batch_size", "adversary_width", "probe_epochs")
"""The chapter's parameters that decide each part; a part stays valid when another one changes."""


@dataclass(frozen=True)
class Results:
    """The outcomes of a run, and means over its seeds.

    Attributes
    ----------
    outcomes : of `experiment`, by row and seed.
    start : accuracy of a fresh probe on the embeddings that all rows start from, by seed.
    sweep : those of the adversary by strength and seed.
    translations : what `translate` returned, by seed and class.
    hard : the number of the group that the study reports.
    """

    outcomes: dict[tuple[str, int], Outcome]
    start: dict[int, float]
    sweep: dict[tuple[float, int], Outcome]
    translations: dict[tuple[int, int], dict[str, Any]]
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
        if len(outcomes) > 1 or metric == "probe_accuracy":
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
        return metric_of(outcome, metric, rule, self.hard)


def metric_of(outcome: Outcome, metric: str, rule: str, hard: int) -> float:
    """A test accuracy of `group_metrics`, or ``probe_accuracy``, at the epoch that a rule chose."""
    chosen = outcome["chosen"][rule]
    if metric == "probe_accuracy":
        return float(chosen[metric])
    metrics = group_metrics(
        chosen["right"], outcome["groups"], train_counts=outcome["train_counts"], hard=hard
    )
    return metrics[metric]


Wanted = tuple[str, int, dict[str, Any]]
"""A training: its row, its seed, and the parameters in which it differs from the run's."""


def compare(run: Run) -> Results:
    """Train and judge every row for every seed, and the adversary for every strength."""
    p = run.parameters
    if p.size % 4:
        raise ParameterError(f"size is {p.size} but must be a multiple of 4, for the translators.")
    rows = [row for row in ROWS if row != "erm_black" or has_objects_on_black(p.dataset, str(p.data_root))]
    table: list[Wanted] = [(row, seed, {}) for row in rows for seed in p.seeds]
    swept: list[Wanted] = [
        ("adversary", seed, {"strength": strength})
        for strength in p.strengths
        if strength
        for seed in p.seeds
    ]
    weights = start_from(run)
    cases = [
        {"seed": seed, "settings": {name: getattr(p, name) for name in PROBE}, "weights": weights}
        | _common(run)
        for seed in p.seeds
    ]
    start = dict(zip(p.seeds, run.parts(probe_start, cases), strict=True))
    found, translations = train(run, [*table, *swept], weights)
    outcomes = {(row, seed): of for (row, seed, _), of in zip(table, found[: len(table)], strict=True)}
    # No adversary at all is balanced ERM: at strength 0 the same weights move in the same way.
    sweep = {(0.0, seed): outcomes["erm_balanced", seed] for seed in p.seeds}
    for (_, seed, changed), outcome in zip(swept, found[len(table) :], strict=True):
        sweep[changed["strength"], seed] = outcome
    return Results(outcomes, start, sweep, translations, p.seeds, HARD[p.dataset], p.resamples)


def start_from(run: Run) -> dict[str, Tensor] | None:
    """The weights that the small network starts from; the others have learned from ImageNet."""
    p = run.parameters
    if p.network != "small_cnn":
        return None
    case = {"device": p.device, "settings": {name: getattr(p, name) for name in PRETRAINING}}
    return run.parts(pretrain, [case])[0]


def _common(run: Run) -> dict[str, Any]:
    p = run.parameters
    return {"dataset": p.dataset, "data_root": str(p.data_root), "device": p.device}


def train(
    run: Run, wanted: Sequence[Wanted], weights: dict[str, Tensor] | None
) -> tuple[list[Outcome], dict[tuple[int, int], dict[str, Any]]]:
    """Train and judge each of ``wanted``, from the weights that `start_from` returned.

    Returns
    -------
    What `experiment` returned, one for each wanted; and of the seeds that CLAMP was wanted for without changed
    parameters what `translate` returned, by seed and class.
    """
    p = run.parameters
    common = _common(run)

    def settings(names: Sequence[str], changed: dict[str, Any]) -> dict[str, Any]:
        return {name: changed.get(name, getattr(p, name)) for name in names}

    moved = [
        {"seed": seed, "label": label, "settings": settings(TRANSLATION, changed)} | common
        for row, seed, changed in wanted
        if row == "clamp"
        for label in (0, 1)
    ]
    translated = run.parts(translate, moved)
    pairs = iter(zip(translated[::2], translated[1::2], strict=True))
    cases: list[dict[str, Any]] = []
    translations: dict[tuple[int, int], dict[str, Any]] = {}
    for row, seed, changed in wanted:
        case = {
            "row": row,
            "seed": seed,
            "settings": settings(TRAINING, changed),
            "weights": weights,
        } | common
        case |= {"strength": 0.0, "translations": None}
        if row == "clamp":
            pair = next(pairs)
            case["translations"] = tuple(of["pixels"] for of in pair)
            translations |= {(seed, label): pair[label] for label in (0, 1) if not changed}
        elif row.startswith("adversary"):
            case["strength"] = changed.get("strength", p.strength)
        cases.append(case)
    return run.parts(experiment, cases), translations
