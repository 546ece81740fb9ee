"""The run of chapter `sec-invariance-transfer`: every arm of its figures and tables, and what they come to."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from nuisance.errors import ParameterError
from nuisance.experiments.invariance_transfer import (
    ROWS,
    first_phase,
    second_phase,
    train_generator,
    train_judge,
)
from nuisance.experiments.invariance_transfer_data import NATURAL
from nuisance.metrics.intervals import Interval, mean_interval
from nuisance.study import Run

Outcome = dict[str, Any]

SETS = ("largest", "smallest", "exponent", "imbalance")
CLASSIFIER = (
    "batch_size",
    "learning_rate",
    "blocks",
    "width",
    "stem_stride",
    "epochs",
    "deferral",
    "warm_up",
    "decay",
    "crop_and_flip",
)
GENERATOR = (
    "generator_width",
    "generator_blocks",
    "generator_halvings",
    "style_dimensions",
    "style_stages",
    "discriminator_stages",
    "generator_rate",
    "generator_halve_every",
    "image_weight",
    "content_weight",
)
GENERATOR_TRAINING = ("generator_batch", "generator_steps", "report_images")
JUDGEMENT = ("share", "kl_images", "kl_draws")
"""The chapter's parameters that decide each part; a part stays valid when another one changes."""

MAIN = ("erm", "drs", "drs_git_all", "drs_git", "drs_oracle")
"""The rows of the figure of eKLD; those with GIT only where there is a generator."""


class Trained(NamedTuple):
    """One arm: a row, a nuisance, a seed and GIT's threshold K, 0 for a row that has none."""

    row: str
    nuisance: str
    seed: int
    threshold: int = 0


@dataclass(frozen=True)
class Results:
    """The outcomes of a run, and means over its seeds.

    Attributes
    ----------
    outcomes : what `second_phase` returned, by arm.
    generators : what `train_generator` returned, by nuisance and seed.
    judges : what `train_judge` returned, by nuisance.
    threshold : K of the tables.
    compared : the nuisance on which all rows were trained.
    """

    outcomes: dict[Trained, Outcome]
    generators: dict[tuple[str, int], dict[str, Any]]
    judges: dict[str, dict[str, Any]]
    seeds: list[int]
    threshold: int
    compared: str

    def has(self, row: str, nuisance: str) -> bool:
        """Whether a row was trained on a nuisance."""
        return self._arm(row, nuisance, self.seeds[0]) in self.outcomes

    def values(
        self, row: str, nuisance: str, of: Callable[[Outcome], float], threshold: int | None = None
    ) -> list[float]:
        """A number of a row's outcomes, seed by seed."""
        return [of(self.outcomes[self._arm(row, nuisance, seed, threshold)]) for seed in self.seeds]

    def mean(
        self, row: str, nuisance: str, of: Callable[[Outcome], float], threshold: int | None = None
    ) -> Interval:
        """Its mean, with Student's interval over seeds."""
        return mean_interval(self.values(row, nuisance, of, threshold))

    def pairs(
        self, one: str, other: str, nuisance: str, threshold: int | None = None
    ) -> list[tuple[Outcome, Outcome]]:
        """The outcomes of two rows, seed by seed: a shared seed means shared images and a shared first phase."""
        return [
            (
                self.outcomes[self._arm(one, nuisance, seed, threshold)],
                self.outcomes[self._arm(other, nuisance, seed, threshold)],
            )
            for seed in self.seeds
        ]

    def difference(self, one: str, other: str, nuisance: str, of: Callable[[Outcome], float]) -> Interval:
        """A number of a row minus that of another, the mean over seeds."""
        return mean_interval([of(first) - of(second) for first, second in self.pairs(one, other, nuisance)])

    def by_rank(self, row: str, nuisance: str, name: str, threshold: int | None = None) -> np.ndarray:
        """A list of the outcomes, ``[seeds, classes]`` from head to tail."""
        return np.array(
            [self.outcomes[self._arm(row, nuisance, seed, threshold)][name] for seed in self.seeds]
        )

    def _arm(self, row: str, nuisance: str, seed: int, threshold: int | None = None) -> Trained:
        below = ROWS[row].transfer in ("below", "ramp")
        return Trained(row, nuisance, seed, (threshold or self.threshold) if below else 0)


def average(name: str) -> Callable[[Outcome], float]:
    """The mean of a list of an outcome over all classes."""
    return lambda outcome: float(np.mean(outcome[name]))


balanced = average("accuracy")
"""Mean over the classes of the accuracy on test images."""


def small(outcome: Outcome, below: int) -> list[int]:
    """The ranks of classes with fewer images than ``below``."""
    return [rank for rank, size in enumerate(outcome["sizes"]) if size < below]


def tail(name: str, below: int) -> Callable[[Outcome], float]:
    """The mean of a list of an outcome over the classes with fewer images than ``below``; NaN if there is none."""

    def of(outcome: Outcome) -> float:
        few = small(outcome, below)
        return float(np.mean([outcome[name][rank] for rank in few])) if few else math.nan

    return of


def head(name: str, below: int) -> Callable[[Outcome], float]:
    """The mean over the other classes; NaN if there is none."""

    def of(outcome: Outcome) -> float:
        few = small(outcome, below)
        many = [value for rank, value in enumerate(outcome[name]) if rank not in few]
        return float(np.mean(many)) if many else math.nan

    return of


def rank_correlation(outcome: Outcome) -> float:
    """Spearman's, of the classes' sizes and their eKLD; classes of one size share a rank."""
    return float(stats.spearmanr(outcome["sizes"], outcome["kl"]).statistic)


def compare(run: Run) -> Results:
    """Train the judges, the generators, the first phases, and every arm."""
    p = run.parameters
    if not p.deferral < p.epochs:
        raise ParameterError(
            f"deferral is {p.deferral} and epochs {p.epochs}, but the second phase must begin before the end."
        )
    if p.generator_batch % 2:
        raise ParameterError(
            f"generator_batch is {p.generator_batch} but is cut into halves; take an even number."
        )
    for name, chosen in (("compared", [p.compared]), ("generated", p.generated)):
        if strange := [nuisance for nuisance in chosen if nuisance not in p.nuisances]:
            raise ParameterError(f"{name} names {strange[0]!r}, which is not among nuisances, {p.nuisances}.")
    if p.compared not in p.generated:
        raise ParameterError(
            f"compared is {p.compared!r}, for which no generator is trained; add it to generated, {p.generated}."
        )
    wanted = [
        (row, nuisance, seed)
        for nuisance in p.nuisances
        for row in (ROWS if nuisance == p.compared else MAIN)
        for seed in p.seeds
        if (nuisance in p.generated or not ROWS[row].transfer)
        and (nuisance != NATURAL or not ROWS[row].oracle)
    ]
    arms = [
        Trained(row, nuisance, seed, p.threshold if ROWS[row].transfer in ("below", "ramp") else 0)
        for row, nuisance, seed in wanted
    ]
    arms += [Trained("drs_git", p.compared, seed, k) for k in p.thresholds for seed in p.seeds]
    judges, generators = draw(run, p.generated, p.seeds)
    outcomes = train(run, arms, {key: found["weights"] for key, found in generators.items()})
    return Results(outcomes, generators, judges, p.seeds, p.threshold, p.compared)


def draw(
    run: Run, nuisances: Sequence[str], seeds: Sequence[int], two_generators: bool = False
) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, int], dict[str, Any]]]:
    """Train a judge for every nuisance, and a generator for every nuisance and seed."""
    p = run.parameters
    settings = _settings(p, [*SETS, "judge_epochs"])
    cases = [{"nuisance": nuisance, "settings": settings} | _common(p) for nuisance in nuisances]
    judges = dict(zip(nuisances, run.parts(train_judge, cases), strict=True))
    pairs = [(nuisance, seed) for nuisance in nuisances for seed in seeds]
    settings = _settings(p, [*SETS, *GENERATOR, *GENERATOR_TRAINING])
    cases = [
        {
            "nuisance": nuisance,
            "seed": seed,
            "judge": judges[nuisance],
            "two_generators": two_generators,
            "settings": settings,
        }
        | _common(p)
        for nuisance, seed in pairs
    ]
    return judges, dict(zip(pairs, run.parts(train_generator, cases), strict=True))


def train(
    run: Run,
    arms: Iterable[Trained],
    weights: dict[tuple[str, int], Any],
    two_generators: bool = False,
) -> dict[Trained, Outcome]:
    """Train the first phases that arms fork, and the arms; ``weights`` are the generators', by nuisance and seed."""
    p = run.parameters
    arms = list(dict.fromkeys(arms))
    settings = _settings(p, [*SETS, *CLASSIFIER])
    starts = [(ROWS[arm.row].loss, ROWS[arm.row].rand_augment, arm.nuisance, arm.seed) for arm in arms]
    names = ("loss", "rand_augment", "nuisance", "seed")
    phases = list(dict.fromkeys(starts))
    cases = [dict(zip(names, phase, strict=True)) | {"settings": settings} | _common(p) for phase in phases]
    first = dict(zip(phases, run.parts(first_phase, cases), strict=True))
    settings |= _settings(p, [*GENERATOR, *JUDGEMENT])
    cases = [
        {
            "row": arm.row,
            "nuisance": arm.nuisance,
            "seed": arm.seed,
            "first": {name: first[start][name] for name in ("state", "order")},
            "weights": weights[arm.nuisance, arm.seed] if ROWS[arm.row].transfer else None,
            "two_generators": two_generators,
            "threshold": arm.threshold,
            "settings": settings,
        }
        | _common(p)
        for arm, start in zip(arms, starts, strict=True)
    ]
    return dict(zip(arms, run.parts(second_phase, cases), strict=True))


def _common(p: Any) -> dict[str, Any]:
    return {"dataset": p.dataset, "data_root": str(p.data_root), "device": p.device}


def _settings(p: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(p, name) for name in names}
