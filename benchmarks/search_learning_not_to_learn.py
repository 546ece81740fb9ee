"""What was tried before the settings of chapter `sec-learning-not-to-learn` were chosen, on validation digits.

    python benchmarks/search_learning_not_to_learn.py /my/data        # about twelve minutes on two cores

Every setting differs from the chapter's in what its name says. Seeds 10, 11, 12, which the chapter does not
use; accuracy on unbiased validation digits; test digits are not looked at. With a folder of full data sets as its
argument also the length of training on all of MNIST. Writes ``results/search/01_learning_not_to_learn.json``, which
the chapter shows as a table.
"""

import sys
from typing import Any

from nuisance import paths, study
from nuisance.data.colored_mnist import fingerprint
from nuisance.experiments import learning_not_to_learn as lntl
from nuisance.experiments import learning_not_to_learn_settings as chapter
from nuisance.metrics.intervals import mean_interval

SEEDS = [10, 11, 12]
PUBLISHED_GAME = {
    "optimizer": "sgd",
    "game_learning_rate": 1e-2,
    "bias_learning_rate": 1e-2,
    "bias_momentum": 0.9,
    "entropy_weight": 0.01,
    "reversal_strength": 0.1,
    "gradient_clip": 0.0,
    "weight_average": 0.0,
}
Tried = list[tuple[str, str, dict[str, Any]]]
TRIED: Tried = [
    ("baseline", "nothing", {}),
    ("baseline", "painting multiply", {"painting": "multiply"}),
    ("gray", "nothing", {}),
    ("unlearn_ramped", "nothing", {}),
    ("unlearn_ramped", "published strengths, plain SGD at 0.01", PUBLISHED_GAME),
    (
        "unlearn_ramped",
        "reversal_strength 3, plain SGD at 0.01",
        {**PUBLISHED_GAME, "reversal_strength": 3.0},
    ),
    ("unlearn_ramped", "published strengths", {"entropy_weight": 0.01, "reversal_strength": 0.1}),
    ("unlearn_ramped", "bias_momentum 0.9", {"bias_momentum": 0.9}),
    ("unlearn_ramped", "bias_learning_rate 0.003", {"bias_learning_rate": 3e-3}),
    ("unlearn_ramped", "weight_average 0", {"weight_average": 0.0}),
    ("unlearn_ramped", "gradient_clip 0", {"gradient_clip": 0.0}),
    ("unlearn_ramped", "entropy_weight 0", {"entropy_weight": 0.0}),
    ("unlearn_ramped", "entropy_weight 3", {"entropy_weight": 3.0}),
    ("unlearn_ramped", "entropy_weight 30", {"entropy_weight": 30.0}),
    ("unlearn_ramped", "reversal_strength 0", {"reversal_strength": 0.0}),
    ("unlearn_ramped", "reversal_strength 1", {"reversal_strength": 1.0}),
    ("unlearn_ramped", "reversal_strength 10", {"reversal_strength": 10.0}),
    ("unlearn_ramped", "ramp epoch", {"ramp": "epoch"}),
    ("unlearn_ramped", "epochs 12", {"epochs": 12}),
    ("unlearn_ramped", "painting multiply", {"painting": "multiply"}),
    ("unlearn", "nothing", {}),
    ("unlearn", "reversal_strength 1", {"reversal_strength": 1.0}),
    ("blindeye", "nothing", {}),
    ("blindeye", "confusion_weight 1", {"confusion_weight": 1.0}),
    ("blindeye", "confusion_weight 10", {"confusion_weight": 10.0}),
]
TRIED_ON_MNIST: Tried = [
    ("unlearn_ramped", "nothing", {}),
    ("unlearn_ramped", "epochs 8", {"epochs": 8}),
]


def judged(run: study.Run, tried: Tried, dataset: str) -> list[dict[str, Any]]:
    """Rows of a table: validation accuracy of every setting, over the seeds."""
    chosen = {name: chapter.DEFAULTS["reduced", dataset][name] for name in chapter.SETTINGS}
    cases = [
        {
            "row": row,
            "seed": seed,
            "color_variance": 0.02,
            "dataset": dataset,
            "data_root": str(run.parameters.data_root),
            "device": run.parameters.device,
            "settings": {**chosen, **changed},
            "probe": False,
        }
        for row, _, changed in tried
        for seed in SEEDS
    ]
    run.use_data(fingerprint(dataset, run.parameters.data_root))
    outcomes = iter(run.parts(lntl.experiment, cases))
    rows = []
    for row, name, _ in tried:
        accuracy = mean_interval([next(outcomes)["validation_accuracy"] for _ in SEEDS])
        rows.append(study.row(row, name, "validation_accuracy", accuracy))
        print(f"{row:16} {name:40} {accuracy}")
    return rows


def main(arguments: list[str]) -> None:
    namespace: dict[str, Any] = dict.fromkeys([*study.COMMON, *chapter.DEFAULTS["reduced", "mnist10k"]])
    namespace |= {"scale": "reduced", "device": "cpu", "seeds": SEEDS, "color_variances": [0.02]}
    run = study.start(
        "01_learning_not_to_learn",
        {**namespace, "data_root": arguments[0] if arguments else None},
        defaults=chapter.DEFAULTS,
        limits=chapter.LIMITS,
        record_path=paths.results() / "search" / "01_learning_not_to_learn.json",
    )
    run.table("Validation accuracy by setting", judged(run, TRIED, "mnist10k"))
    if arguments:
        run.table("Validation accuracy by setting, all of MNIST", judged(run, TRIED_ON_MNIST, "mnist"))
    print(f"Written to {run.finish()}.")


if __name__ == "__main__":
    main(sys.argv[1:])
