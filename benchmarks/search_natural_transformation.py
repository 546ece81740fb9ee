"""What was tried around chapter `sec-natural-transformation`, and ten trainings that had no part in it.

    python benchmarks/search_natural_transformation.py        # half an hour on two cores

First, seeds 10, 11, 12, which the chapter does not use, on validation images: how far directions are followed and how an
edit is chosen, and the pixel adversary's epsilon, so that it is no straw man. Each setting differs from the
chapter's in what its name says. Then every row, on test images, for the ten seeds 20 to 29; the generator, the
judge and the directions are the chapter's. What the judge says of edits is asked on test images in both, and chose
nothing. Writes ``results/search/06_natural_transformation.json``.
"""

from types import SimpleNamespace
from typing import Any

from nuisance import paths, study
from nuisance.data.distortions import DISTORTIONS
from nuisance.experiments import natural_transformation_data as data
from nuisance.experiments import natural_transformation_settings as chapter
from nuisance.experiments import natural_transformation_study as nt
from nuisance.experiments.natural_transformation import ROWS, judge_choices
from nuisance.metrics.intervals import mean_interval

SEEDS = [10, 11, 12]
FRESH_SEEDS = list(range(20, 30))
TRIED: list[tuple[str, dict[str, Any]]] = [
    ("standard", {}),
    ("pixels", {"epsilon": 0.01}),
    ("pixels", {"epsilon": 0.03}),
    ("pixels", {"epsilon": 0.1}),
    ("natra", {}),
    ("natra", {"amplitude": 3.0}),
    ("natra", {"largest_flip": 0.2}),
    ("ascent", {}),
    ("ascent", {"amplitude": 0.5}),
    ("ascent", {"rho": 0.25}),
    ("ascent", {"largest_flip": 0.2}),
    ("coins", {}),
    ("corner", {}),
    ("corner", {"amplitude": 0.5}),
    ("learned_ascent", {}),
]
MEASURES = {"clean": nt.clean, "natural": nt.natural, "not natural": nt.other}
NUMBERS = ("flips", "errors", "length", "change")
"""Of edits, see `judge_choices`."""
PAIRS = (
    ("random", "standard"),
    ("natra", "standard"),
    ("natra", "random"),
    ("coins", "standard"),
    ("coins", "random"),
    ("ascent", "standard"),
    ("ascent", "random"),
    ("corner", "standard"),
    ("ascent", "coins"),
    ("ascent", "corner"),
    ("ascent", "pixels"),
    ("ascent", "rand_augment"),
    ("learned", "natra"),
    ("learned_ascent", "standard"),
    ("learned_ascent", "ascent"),
    ("ascent", "natra"),
    ("aug_mix", "standard"),
    ("pixels", "standard"),
    ("rand_augment", "standard"),
)
"""Of which the second is taken from the first, seed by seed."""


Outcomes = dict[tuple[str, int], nt.Outcome]
Edits = dict[tuple[str, int], dict[str, float]]


def outcomes_of(run: study.Run, rows: list[str], seeds: list[int], split: str) -> tuple[Outcomes, Edits]:
    """The rows, trained, and what the judge says of the edits of those that have some."""
    networks, judge, outcomes = nt.prepare(run, [row for row in rows if ROWS[row].peer], seeds, split)
    edited = [row for row in rows if not ROWS[row].peer]
    edits: Edits = {}
    if edited:
        inverted = nt.invert_images(run, networks)
        directions = nt.find(run, networks, judge, inverted)
        outcomes |= nt.train(run, edited, seeds, networks, inverted, directions, split)
        for found_by, of in directions.items():
            if along := [row for row in edited if ROWS[row].found_by == found_by]:
                cases = nt.choices_of(run.parameters, along, seeds, networks, judge, of, outcomes)
                for seed, judged in zip(seeds, run.parts(judge_choices, cases), strict=True):
                    edits |= {(row, seed): numbers for row, numbers in judged.items()}
    return outcomes, edits


def tried(run: study.Run, row: str, changed: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table: a training with a setting, on validation images."""
    # the run of these parameters, which keeps its parts where the chapter's are kept
    own = study.Run(
        record_path=run.record_path,
        stem=run.stem,
        parameters=SimpleNamespace(**(vars(run.parameters) | changed)),
    )
    own.use_data(data.fingerprint(run.parameters.dataset, str(run.parameters.data_root), ""))
    outcomes, edits = outcomes_of(own, [row], SEEDS, "validation")
    name = ", ".join(f"{key} {value:g}" for key, value in changed.items()) or "nothing"
    rows = [
        study.row(row, name, metric, mean_interval([of(outcomes[row, seed]) for seed in SEEDS]))
        for metric, of in MEASURES.items()
    ]
    if edits:
        flips = mean_interval([edits[row, seed]["flips"] for seed in SEEDS])
        rows.append(study.row(row, name, "flips", flips))
    print(f"{row:10} {name:25}", *(f"{each['value']:.3f}" for each in rows), flush=True)
    return rows


def compare(run: study.Run) -> None:
    """Record what differs between rows over ten seeds, on test images with the chapter's settings; and their edits."""
    outcomes, edits = outcomes_of(run, list(ROWS), FRESH_SEEDS, "test")
    measures = MEASURES | {name: nt.under(name) for name in DISTORTIONS}
    differences = []
    for one, other in PAIRS:
        for metric, of in measures.items():
            more = mean_interval(
                [of(outcomes[one, seed]) - of(outcomes[other, seed]) for seed in FRESH_SEEDS]
            )
            setting = f"{ROWS[one].title} - {ROWS[other].title}"
            differences.append(study.row("ten seeds", setting, metric, more))
            print(f"{setting:50} {metric:12} {more}", flush=True)
    run.table("Ten seeds that chose nothing", differences)
    judged = []
    for row in ROWS:
        for number in NUMBERS if ROWS[row].found_by else ():
            of_row = mean_interval([edits[row, seed][number] for seed in FRESH_SEEDS])
            judged.append(study.row(row, "ten seeds", number, of_row))
            print(f"{ROWS[row].title:50} {number:12} {of_row}", flush=True)
    run.table("Edits of the trainings", judged)


def main() -> None:
    parameters: dict[str, Any] = dict.fromkeys(
        [*study.COMMON, *chapter.DEFAULTS["reduced", "fashion_mnist20k"]]
    )
    run = study.start(
        "06_natural_transformation",
        {**parameters, "scale": "reduced", "device": "cpu", "seeds": [*SEEDS, *FRESH_SEEDS]},
        defaults=chapter.DEFAULTS,
        limits=chapter.LIMITS,
        record_path=paths.results() / "search" / "06_natural_transformation.json",
    )
    run.use_data(data.fingerprint(run.parameters.dataset, str(run.parameters.data_root), ""))
    run.table("Trainings by setting", [row for name, changed in TRIED for row in tried(run, name, changed)])
    compare(run)
    print(f"Written to {run.finish()}.")


if __name__ == "__main__":
    main()
