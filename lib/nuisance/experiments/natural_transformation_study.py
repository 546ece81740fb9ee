"""The run of chapter `sec-natural-transformation`: every network and row of its tables, and what they come to."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nuisance.data.distortions import DISTORTIONS
from nuisance.errors import ParameterError
from nuisance.experiments.natural_transformation import (
    ROWS,
    find_directions,
    invert,
    judge_choices,
    judge_edits,
    judge_generator,
    measure_reach,
    reconstruct,
    train_classifier,
    train_generator,
    train_judge,
)
from nuisance.methods.directions import require_rising
from nuisance.metrics.intervals import Interval, mean_interval
from nuisance.study import Run

Outcome = dict[str, Any]

SETS = ("images", "test_images", "side", "cap")
GENERATOR = (
    "generator_file",
    "latent",
    "generator_width",
    "discriminator_width",
    "generator_rate",
    "generator_steps",
    "generator_batch",
)
INVERSION = ("shift_steps", "shift_rate", "direction_images")
RECONSTRUCTION = ("shift_rate", "reconstruction_steps", "expansion_images", "codes")
DIRECTIONS = (
    "directions",
    "direction_steps",
    "direction_rate",
    "direction_reach",
    "amplitudes",
    "smallest_change",
    "largest_flip",
)
CLASSIFIER = ("epochs", "batch_size", "learning_rate", "width")
EDITS = ("amplitude", "draws", "ascent_steps", "rho")
CHOICES = ("edit_images", "width", "learning_rate", *EDITS)
"""The chapter's parameters that decide each part; a part stays valid when another one changes."""

PEERS = tuple(row for row, of in ROWS.items() if of.peer)
EDITED = ("random", "corner", "natra", "ascent")
"""The rows of the chapter; the others train a classifier in its search only."""
NATURAL = tuple(name for name, of in DISTORTIONS.items() if of.natural)


@dataclass(frozen=True)
class Results:
    """The outcomes of a run, and means over its seeds.

    Attributes
    ----------
    judge, networks, quality, inverted, reconstructed : what `train_judge`, `train_generator`, `judge_generator`,
        `invert` and `reconstruct` returned.
    directions : what `find_directions` returned, by how they were found.
    outcomes : what `train_classifier` returned, by row and seed; without rows of edits if no direction is kept.
    edits : what `judge_edits` returned, by seed, along SeFa's directions, its lists in the order of `rows`.
    choices : what `judge_choices` returned, by seed, of the rows with edits.
    reach : what `measure_reach` returned of SeFa's directions; it, ``edits`` and ``choices`` are empty if none is kept.
    """

    judge: dict[str, Any]
    networks: dict[str, Any]
    quality: dict[str, Any]
    inverted: dict[str, Any]
    reconstructed: dict[str, Any]
    directions: dict[str, dict[str, Any]]
    outcomes: dict[tuple[str, int], Outcome]
    edits: dict[int, dict[str, Any]]
    choices: dict[int, dict[str, dict[str, float]]]
    reach: dict[str, Any]
    seeds: list[int]

    @property
    def rows(self) -> list[str]:
        """The rows that were trained, in the order of `ROWS`."""
        return [row for row in ROWS if (row, self.seeds[0]) in self.outcomes]

    def values(self, row: str, of: Callable[[Outcome], float]) -> list[float]:
        """A number of a row's outcomes, seed by seed."""
        return [of(self.outcomes[row, seed]) for seed in self.seeds]

    def mean(self, row: str, of: Callable[[Outcome], float]) -> Interval:
        """Its mean, with Student's interval over seeds."""
        return mean_interval(self.values(row, of))

    def difference(self, one: str, other: str, of: Callable[[Outcome], float]) -> Interval:
        """A number of a row minus that of another, seed by seed: a shared seed means shared first weights and order."""
        pairs = zip(self.values(one, of), self.values(other, of), strict=True)
        return mean_interval([first - second for first, second in pairs])

    def edited(self, row: str, kind: str) -> np.ndarray:
        """Accuracy on edited images, ``mean`` or ``worst``, ``[seeds, amplitudes]``."""
        place = self.rows.index(row)
        return np.array([self.edits[seed][kind][place] for seed in self.seeds])

    def chosen(self, row: str, number: str) -> Interval:
        """A number of a row's edits, ``flips``, ``errors``, ``length`` or ``change``: its mean, as `mean` has it."""
        return mean_interval([self.choices[seed][row][number] for seed in self.seeds])


def under(name: str) -> Callable[[Outcome], float]:
    """Accuracy under a distortion, the mean over severities 1 to 5; ``clean`` has one."""
    return lambda outcome: float(np.mean(outcome["accuracy"][name]))


def natural(outcome: Outcome) -> float:
    """Accuracy under natural distortions, the mean over these and their severities."""
    return float(np.mean([outcome["accuracy"][name] for name in NATURAL]))


def other(outcome: Outcome) -> float:
    """The same of the distortions that are not natural."""
    return float(np.mean([outcome["accuracy"][name] for name in DISTORTIONS if name not in NATURAL]))


clean = under("clean")
"""Accuracy on images as they are."""


def compare(run: Run) -> Results:
    """Train the generator, find directions, train every row, and judge all."""
    p = run.parameters
    require_rising(p.amplitudes)  # before anything is trained
    if not p.generator_file and p.directions > p.latent:
        raise ParameterError(
            f"directions is {p.directions} but a latent has only {p.latent} numbers; ask for fewer."
        )
    # the longest parts first, so that the cores finish together
    networks, judge, outcomes = prepare(run, PEERS[::-1], p.seeds)
    nets = {"networks": networks, "settings": _settings(p, [*SETS, *GENERATOR])} | _common(p)
    judged = {**nets, "judge": judge}
    (inverted,), (quality,), (reconstructed,) = run.together(
        (invert, [_inversion(p, networks)]),
        (judge_generator, [judged]),
        (reconstruct, [_with(p, judged, RECONSTRUCTION)]),
    )
    directions = find(run, networks, judge, inverted)
    if directions["sefa"]["note"] is None:
        outcomes |= train(run, EDITED[::-1], p.seeds, networks, inverted, directions)
    rows = [row for row in ROWS if (row, p.seeds[0]) in outcomes]
    edits: dict[int, dict[str, Any]] = {}
    choices: dict[int, dict[str, dict[str, float]]] = {}
    reach: dict[str, Any] = {}
    if directions["sefa"]["note"] is None:
        case = _with(p, {**nets, "vectors": directions["sefa"]["vectors"]}, ("edit_images",))
        cases = [
            {
                **_with(p, case, ("width", "amplitude")),
                "weights": [outcomes[row, seed]["weights"] for row in rows],
            }
            for seed in p.seeds
        ]
        choosing = choices_of(p, EDITED, p.seeds, networks, judge, directions["sefa"], outcomes)
        (reach,), of_edits, of_choices = run.together(
            (measure_reach, [{**case, "judge": judge}]), (judge_edits, cases), (judge_choices, choosing)
        )
        edits = dict(zip(p.seeds, of_edits, strict=True))
        choices = dict(zip(p.seeds, of_choices, strict=True))
    return Results(
        judge,
        networks,
        quality,
        inverted,
        reconstructed,
        directions,
        outcomes,
        edits,
        choices,
        reach,
        list(p.seeds),
    )


def prepare(
    run: Run, peers: Sequence[str], seeds: Sequence[int], split: str = "test"
) -> tuple[dict[str, Any], dict[str, Any], dict[tuple[str, int], Outcome]]:
    """What needs nothing else: the generator, the judge, and the rows without edits."""
    p = run.parameters
    common = _common(p)
    pairs = [(row, seed) for row in peers for seed in seeds]
    settings = {
        row: _settings(p, [*SETS, *CLASSIFIER, *(["epsilon"] if ROWS[row].peer == "pixel_adversary" else [])])
        for row in peers
    }
    (networks,), (judge,), trained = run.together(
        (train_generator, [{"settings": _settings(p, [*SETS, *GENERATOR])} | common]),
        (train_judge, [{"settings": _settings(p, [*SETS, "judge_epochs"])} | common]),
        (
            train_classifier,
            [
                {"row": row, "seed": seed, "split": split, "settings": settings[row]} | common
                for row, seed in pairs
            ],
        ),
    )
    return networks, judge, dict(zip(pairs, trained, strict=True))


def invert_images(run: Run, networks: dict[str, Any]) -> dict[str, Any]:
    """The latents of the classifiers' images."""
    (inverted,) = run.parts(invert, [_inversion(run.parameters, networks)])
    return inverted


def find(
    run: Run, networks: dict[str, Any], judge: dict[str, Any], inverted: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Directions, by how they are found."""
    p = run.parameters
    case = {
        "networks": networks,
        "judge": judge,
        "inverted": inverted,
        "settings": _settings(p, [*SETS, *GENERATOR, *DIRECTIONS]),
    } | _common(p)
    names = ("learned", "sefa")  # the longer one first
    found = run.parts(find_directions, [{"found_by": name, **case} for name in names])
    return dict(zip(names, found, strict=True))


def train(
    run: Run,
    rows: Iterable[str],
    seeds: Sequence[int],
    networks: dict[str, Any],
    inverted: dict[str, Any],
    directions: dict[str, dict[str, Any]],
    split: str = "test",
) -> dict[tuple[str, int], Outcome]:
    """Train rows with edits; their directions must have been kept."""
    p = run.parameters
    settings = _settings(p, [*SETS, *GENERATOR, *CLASSIFIER, *EDITS])
    pairs = [(row, seed) for row in rows for seed in seeds]
    cases = [
        {
            "row": row,
            "seed": seed,
            "split": split,
            "networks": networks,
            "inverted": inverted,
            "vectors": directions[str(ROWS[row].found_by)]["vectors"],
            "settings": settings,
        }
        | _common(p)
        for row, seed in pairs
    ]
    return dict(zip(pairs, run.parts(train_classifier, cases), strict=True))


def choices_of(
    p: Any,
    rows: Sequence[str],
    seeds: Sequence[int],
    networks: dict[str, Any],
    judge: dict[str, Any],
    directions: dict[str, Any],
    outcomes: dict[tuple[str, int], Outcome],
) -> list[dict[str, Any]]:
    """The cases of `judge_choices`, seed by seed, of rows along the same directions."""
    return [
        {
            "seed": seed,
            "weights": {row: outcomes[row, seed]["weights"] for row in rows},
            "networks": networks,
            "judge": judge,
            "vectors": directions["vectors"],
            "settings": _settings(p, [*SETS, *GENERATOR, *CHOICES]),
        }
        | _common(p)
        for seed in seeds
    ]


def _inversion(p: Any, networks: dict[str, Any]) -> dict[str, Any]:
    return {"networks": networks, "settings": _settings(p, [*SETS, *GENERATOR, *INVERSION])} | _common(p)


def _common(p: Any) -> dict[str, Any]:
    return {"dataset": p.dataset, "data_root": str(p.data_root), "device": p.device}


def _settings(p: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(p, name) for name in names}


def _with(p: Any, case: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A case with further settings."""
    return {**case, "settings": {**case["settings"], **_settings(p, names)}}
