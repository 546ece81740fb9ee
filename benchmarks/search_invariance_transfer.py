"""What was tried around the generator of chapter `sec-invariance-transfer`, and ten sets that had no part in it.

    python benchmarks/search_invariance_transfer.py        # about a quarter of an hour on two cores

First, seeds 10, 11, 12, which the chapter does not use: other orders of the classes, nuisances and weights. Each
setting differs from the chapter's in what its name says; *two generators* is the released code's form, whose step
takes about twice as long. Judged are the generator's report and what DRS + GIT below K makes of it, against DRS
alone, on validation images. Then the arms that are compared, on test images, for the ten seeds 20 to 29. Writes
``results/search/05_invariance_transfer.json``.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from nuisance import paths, study
from nuisance.experiments import invariance_transfer_data as data
from nuisance.experiments import invariance_transfer_settings as chapter
from nuisance.experiments.invariance_transfer import ROWS
from nuisance.experiments.invariance_transfer_study import Outcome, Trained, average, draw, head, tail, train
from nuisance.metrics.intervals import mean_interval

SEEDS = [10, 11, 12]
FRESH_SEEDS = list(range(20, 30))
TWO = "two generators"
TRIED: list[tuple[str, dict[str, Any]]] = [
    ("background", {}),
    ("background", {TWO: True}),
    ("background", {"image_weight": 100.0, "content_weight": 10.0}),
    ("background", {"generator_halvings": 2}),
    ("background", {"generator_steps": 1200, "generator_halve_every": 400}),
    ("dilation", {}),
    ("dilation", {TWO: True}),
]
MAIN = ("drs", "drs_git_all", "drs_git", "drs_oracle")
COMPARED = {
    "background": (*MAIN, "ldam_drs", "ldam_drs_git", "drs_rand", "drs_rand_git"),
    "dilation": MAIN,
}
"""The arms on fresh sets, by nuisance."""
PAIRS = (
    ("drs_git", "drs"),
    ("drs_git", "drs_git_all"),
    ("drs_git", "drs_oracle"),
    ("ldam_drs_git", "ldam_drs"),
    ("drs_rand_git", "drs_rand"),
    ("drs_git", "drs_rand"),
)
"""Of which the second is taken from the first, set by set."""


def tried(run: study.Run, nuisance: str, changed: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table: the generator of a setting, and the classifier that it helps."""
    two = changed.get(TWO, False)
    settings = {name: value for name, value in changed.items() if name != TWO}
    # the run of these parameters, which keeps its parts where the chapter's are kept
    own = study.Run(
        record_path=run.record_path,
        stem=run.stem,
        parameters=SimpleNamespace(**(vars(run.parameters) | settings)),
    )
    own.use_data(data.fingerprint(run.parameters.dataset, str(run.parameters.data_root)))
    _, generators = draw(own, [nuisance], SEEDS, two)
    k = run.parameters.threshold
    arms = {
        row: [Trained(row, nuisance, seed, k if row == "drs_git" else 0) for seed in SEEDS]
        for row in ("drs", "drs_git")
    }
    weights = {key: found["weights"] for key, found in generators.items()}
    outcomes = train(own, [*arms["drs"], *arms["drs_git"]], weights, two)

    def gained(of: Any) -> list[float]:
        pairs = zip(arms["drs_git"], arms["drs"], strict=True)
        return [of(outcomes[git]) - of(outcomes[plain]) for git, plain in pairs]

    reports = [generators[nuisance, seed]["report"] for seed in SEEDS]
    numbers = {
        "kept": [report["kept"] for report in reports],
        "kept of real": [report["real_kept"] for report in reports],
        "variation": [report["style_variation"] / report["true_variation"] for report in reports],
        "accuracy, GIT - DRS": gained(average("validation_accuracy")),
        "tail's accuracy, GIT - DRS": gained(tail("validation_accuracy", k)),
        "tail's kl, GIT - DRS": gained(tail("kl", k)),
    }
    name = ", ".join(key if key == TWO else f"{key} {value:g}" for key, value in changed.items())
    rows = [
        study.row(nuisance, name or "nothing", metric, mean_interval(values))
        for metric, values in numbers.items()
    ]
    print(f"{nuisance:12} {name or 'nothing':45}", *(f"{row['value']:.3f}" for row in rows), flush=True)
    return rows


def compared(run: study.Run) -> list[dict[str, Any]]:
    """Rows of a table: what differs between two arms on ten sets, test images and the chapter's settings."""
    k = run.parameters.threshold
    _, generators = draw(run, list(COMPARED), FRESH_SEEDS)
    weights = {key: found["weights"] for key, found in generators.items()}
    arms = {
        (row, nuisance, seed): Trained(row, nuisance, seed, k if ROWS[row].transfer == "below" else 0)
        for nuisance, of in COMPARED.items()
        for row in of
        for seed in FRESH_SEEDS
    }
    outcomes = train(run, arms.values(), weights)
    measures: dict[str, Callable[[Outcome], float]] = {
        "balanced accuracy": average("accuracy"),
        "accuracy, tail": tail("accuracy", k),
        "accuracy, head": head("accuracy", k),
        "kl, tail": tail("kl", k),
        "kl, head": head("kl", k),
    }
    rows = []
    for nuisance, of in COMPARED.items():
        for one, other in PAIRS:
            if not {one, other} <= set(of):
                continue
            for metric, measure in measures.items():
                more = [
                    measure(outcomes[arms[one, nuisance, seed]])
                    - measure(outcomes[arms[other, nuisance, seed]])
                    for seed in FRESH_SEEDS
                ]
                setting = f"{ROWS[one].title} - {ROWS[other].title}"
                rows.append(study.row(nuisance, setting, metric, mean_interval(more)))
                print(f"{nuisance:12} {setting:40} {metric:18} {mean_interval(more)}", flush=True)
    return rows


def main() -> None:
    parameters: dict[str, Any] = dict.fromkeys(
        [*study.COMMON, *chapter.DEFAULTS["reduced", "fashion_mnist20k"]]
    )
    run = study.start(
        "05_invariance_transfer",
        {**parameters, "scale": "reduced", "device": "cpu", "seeds": [*SEEDS, *FRESH_SEEDS]},
        defaults=chapter.DEFAULTS,
        limits=chapter.LIMITS,
        record_path=paths.results() / "search" / "05_invariance_transfer.json",
    )
    run.use_data(data.fingerprint(run.parameters.dataset, str(run.parameters.data_root)))
    rows = [row for nuisance, changed in TRIED for row in tried(run, nuisance, changed)]
    run.table("Generators by setting", rows)
    run.table("Ten sets that chose nothing", compared(run))
    print(f"Written to {run.finish()}.")


if __name__ == "__main__":
    main()
