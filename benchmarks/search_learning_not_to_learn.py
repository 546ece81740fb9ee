"""What was tried before the settings of chapter `sec-learning-not-to-learn` were chosen, on validation digits.

    python benchmarks/search_learning_not_to_learn.py        # about ten minutes on two cores

Every setting differs from the chapter's in what its name says. Seeds 10, 11, 12, which the chapter does not
use; accuracy on unbiased validation digits; test digits are not judged here. Writes
``results/search/01_learning_not_to_learn.json``, which the chapter shows as a table.
"""

from typing import Any

from nuisance import paths, study
from nuisance.data.colored_mnist import fingerprint
from nuisance.experiments import learning_not_to_learn as lntl
from nuisance.experiments import learning_not_to_learn_settings as chapter
from nuisance.metrics.intervals import mean_interval

SEEDS = [10, 11, 12]
SGD = {"optimizer": "sgd", "bias_momentum": 0.9, "learning_rate": 1e-2}
PUBLISHED_GAME = {
    **SGD,
    "game_learning_rate": 1e-2,
    "bias_learning_rate": 1e-2,
    "entropy_weight": 0.01,
    "reversal_strength": 0.1,
    "gradient_clip": 0.0,
    "weight_average": 0.0,
}
TRIED: list[tuple[str, str, dict[str, Any]]] = [
    ("baseline", "nothing", {}),
    ("gray", "nothing", {}),
    ("unlearn_ramped", "nothing", {}),
    ("unlearn_ramped", "published strengths, SGD", PUBLISHED_GAME),
    ("unlearn_ramped", "published strengths", {"entropy_weight": 0.01, "reversal_strength": 0.1}),
    ("unlearn_ramped", "bias_momentum 0.9", {"bias_momentum": 0.9}),
    ("unlearn_ramped", "bias_learning_rate 0.003", {"bias_learning_rate": 3e-3}),
    ("unlearn_ramped", "no weight_average", {"weight_average": 0.0}),
    ("unlearn_ramped", "no gradient_clip", {"gradient_clip": 0.0}),
    ("unlearn_ramped", "entropy_weight 3", {"entropy_weight": 3.0}),
    ("unlearn_ramped", "entropy_weight 30", {"entropy_weight": 30.0}),
    ("unlearn_ramped", "reversal_strength 1", {"reversal_strength": 1.0}),
    ("unlearn_ramped", "reversal_strength 10", {"reversal_strength": 10.0}),
    ("unlearn_ramped", "ramp by epochs", {"ramp": "epoch"}),
    ("unlearn_ramped", "12 epochs", {"epochs": 12}),
    ("unlearn_ramped", "painting multiply", {"painting": "multiply"}),
    ("unlearn", "nothing", {}),
    ("unlearn", "reversal_strength 1", {"reversal_strength": 1.0}),
    ("blindeye", "nothing", {}),
    ("blindeye", "confusion_weight 1", {"confusion_weight": 1.0}),
    ("blindeye", "confusion_weight 10", {"confusion_weight": 10.0}),
]


def main() -> None:
    given = {name: None for name in ("dataset", "data_root", *chapter.SETTINGS, "start_from_baseline")}
    namespace = {**given, "scale": "reduced", "device": "cpu", "seeds": SEEDS, "color_variances": [0.02]}
    run = study.start(
        "01_learning_not_to_learn",
        namespace,
        defaults=chapter.DEFAULTS,
        limits=chapter.LIMITS,
        record_path=paths.results() / "search" / "01_learning_not_to_learn.json",
    )
    run.use_data(fingerprint(run.parameters.dataset, run.parameters.data_root))
    cases = [
        {
            "row": row,
            "seed": seed,
            "color_variance": 0.02,
            "dataset": run.parameters.dataset,
            "data_root": str(run.parameters.data_root),
            "device": run.parameters.device,
            "settings": {**chapter.CHOSEN, **changed},
            "probe": False,
        }
        for row, _, changed in TRIED
        for seed in SEEDS
    ]
    outcomes = iter(run.parts(lntl.experiment, cases))
    rows = []
    for row, name, _ in TRIED:
        accuracies = [next(outcomes)["validation_accuracy"] for _ in SEEDS]
        rows.append(study.row(row, name, "validation_accuracy", mean_interval(accuracies)))
        print(f"{row:16} {name:28} {mean_interval(accuracies)}")
    run.table("Validation accuracy by setting", rows)
    print(f"Written to {run.finish()}.")


if __name__ == "__main__":
    main()
