"""What was tried around the settings of chapter `sec-attribute-adversary`, and how they do on seeds that chose nothing.

    python benchmarks/search_attribute_adversary.py        # about a quarter of an hour on two cores

First, every setting differs from the chapter's in what its name says: seeds 10, 11, 12, validation images only.
Then the methods that are compared, on test images, for the ten seeds 20 to 29, which had no part in any choice.
Writes ``results/search/04_attribute_adversary.json``, which the chapter shows as tables.
"""

from typing import Any

from torch import Tensor

from nuisance import paths, study
from nuisance.experiments import attribute_adversary_data as data
from nuisance.experiments import attribute_adversary_settings as chapter
from nuisance.experiments.attribute_adversary_study import Outcome, metric_of, start_from, train
from nuisance.metrics.intervals import mean_interval

Weights = dict[str, Tensor] | None
SEEDS = [10, 11, 12]
FRESH_SEEDS = list(range(20, 30))
STRONG = {"adversary_steps": 4}
"""The strongest adversary that was tried: it moves four times on every batch before the game does."""

TRIED: list[tuple[str, dict[str, Any]]] = [
    ("erm_balanced", {}),
    ("erm_balanced", {"learning_rate": 1e-4}),
    ("erm_balanced", {"learning_rate": 1e-3}),
    ("erm_balanced", {"weight_decay": 1e-2}),
    ("erm_balanced", {"epochs": 16}),
    ("gdro", {}),
    ("gdro", {"dro_step": 0.1}),
    ("gdro", {"dro_adjustment": 2.0}),
    ("clamp", {}),
    ("clamp", {"patch_weight": 1.0}),
    ("clamp", {"patch_weight": 20.0}),
    ("clamp", {"translator_cycle": 10.0}),
    ("clamp", {"translator_steps": 480}),
    ("adversary", {}),
    ("adversary", {"strength": 0.1}),
    ("adversary", {"strength": 2.0}),
    ("adversary", {"learning_rate": 1e-4}),
    ("adversary", {"learning_rate": 1e-3}),
    ("adversary", {"weight_decay": 1e-2}),
    ("adversary", {"epochs": 16}),
    ("adversary", {"adversary_width": 256}),
    ("adversary", {"adversary_rate": 3.0}),
    ("adversary", {"adversary_rate": 10.0}),
    ("adversary", {"adversary_steps": 1}),
    ("adversary", STRONG),
    ("adversary", {**STRONG, "strength": 0.1}),
    ("adversary", {**STRONG, "strength": 2.0}),
    ("adversary_conditional", {}),
    ("adversary_conditional", STRONG),
]
COMPARED: list[tuple[str, dict[str, Any]]] = [
    ("erm_balanced", {}),
    ("gdro", {}),
    ("clamp", {}),
    ("adversary", {}),
    ("adversary", STRONG),
    ("adversary_conditional", {}),
    ("adversary_conditional", STRONG),
    ("erm_black", {}),
]


def name_of(changed: dict[str, Any]) -> str:
    """A setting's name in a table."""
    return ", ".join(f"{name} {value:g}" for name, value in changed.items()) or "nothing"


def tried(run: study.Run, weights: Weights) -> list[dict[str, Any]]:
    """Rows of a table: accuracy of every setting on validation images, the epoch chosen by either rule."""
    found, _ = train(run, [(row, seed, changed) for row, changed in TRIED for seed in SEEDS], weights)
    rows = []
    for i, (row, changed) in enumerate(TRIED):
        outcomes = found[i * len(SEEDS) :][: len(SEEDS)]
        for rule, metric in (("gate_then_hard", "hard"), ("worst_group", "worst")):
            values = [outcome["chosen"][rule]["validation"][metric] for outcome in outcomes]
            rows.append(study.row(row, name_of(changed), metric, mean_interval(values)))
        print(f"{row:22} {name_of(changed):35} {rows[-2]['value']:.3f} {rows[-1]['value']:.3f}")
    return rows


def compared(run: study.Run, weights: Weights) -> list[dict[str, Any]]:
    """Rows of a table: test accuracies of the methods and what each has more than balanced ERM, seed by seed."""
    wanted = [(row, seed, changed) for row, changed in COMPARED for seed in FRESH_SEEDS]
    found, _ = train(run, wanted, weights)
    by_method: list[list[Outcome]] = [
        found[i * len(FRESH_SEEDS) :][: len(FRESH_SEEDS)] for i in range(len(COMPARED))
    ]
    hard = data.HARD[run.parameters.dataset]
    rows = []
    for (row, changed), outcomes in zip(COMPARED, by_method, strict=True):
        for metric, rule in (
            ("overall", "gate_then_hard"),
            ("hard", "gate_then_hard"),
            ("worst", "gate_then_hard"),
            ("worst", "worst_group"),
            ("probe_accuracy", "gate_then_hard"),
        ):
            values = [metric_of(outcome, metric, rule, hard) for outcome in outcomes]
            plain = [metric_of(outcome, metric, rule, hard) for outcome in by_method[0]]
            more = [value - other for value, other in zip(values, plain, strict=True)]
            column = metric if rule == "gate_then_hard" else f"{metric}, epoch by it"
            rows.append(study.row(row, name_of(changed), column, mean_interval(values)))
            if row != "erm_balanced":
                rows.append(study.row(row, name_of(changed), f"{column}, difference", mean_interval(more)))
            print(f"{row:22} {name_of(changed):25} {column:25} {mean_interval(values)} {mean_interval(more)}")
    return rows


def main() -> None:
    parameters = dict.fromkeys([*study.COMMON, *chapter.DEFAULTS["reduced", "garments_outdoors"]])
    run = study.start(
        "04_attribute_adversary",
        {**parameters, "scale": "reduced", "device": "cpu", "seeds": [*SEEDS, *FRESH_SEEDS]},
        defaults=chapter.DEFAULTS,
        limits=chapter.LIMITS,
        record_path=paths.results() / "search" / "04_attribute_adversary.json",
    )
    p = run.parameters
    run.use_data(data.fingerprint(p.dataset, p.network, str(p.data_root)))
    weights = start_from(run)
    run.table("Validation accuracy by setting", tried(run, weights))
    run.table("Ten seeds that chose nothing", compared(run, weights))
    print(f"Written to {run.finish()}.")


if __name__ == "__main__":
    main()
