"""The parameters of chapter `sec-learning-not-to-learn`, by scale and data set.

They stand apart from the experiment, which is given them as arguments: a default that changes leaves
finished parts valid.
"""

from typing import Any

from nuisance.limits import Limit, above, at_least, between, one_of

CHOSEN = {
    "side": 14,
    "painting": "flat",
    "width": 16,
    "epochs": 6,
    "batch_size": 64,
    "optimizer": "adam",
    "learning_rate": 2e-3,
    "game_learning_rate": 3e-3,
    "bias_learning_rate": 1e-2,
    "bias_momentum": 0.5,
    "decay_every": 0,
    "gradient_clip": 1.0,
    "weight_average": 0.99,
    "entropy_weight": 10.0,
    "reversal_strength": 3.0,
    "confusion_weight": 3.0,
    "ramp": "progress",
    "repaints": 3,
    "probe_images": 8_000,
}
"""The reduced run's settings, chosen on validation digits by ``benchmarks/search_learning_not_to_learn.py``."""

PUBLISHED = {
    "side": 28,
    "painting": "multiply",
    "width": 32,
    "epochs": 100,
    "batch_size": 128,
    "optimizer": "sgd",
    "learning_rate": 1e-2,
    "game_learning_rate": 1e-3,
    "bias_learning_rate": 1e-3,
    "bias_momentum": 0.9,
    "decay_every": 40,
    "gradient_clip": 0.0,
    "weight_average": 0.0,
    "entropy_weight": 0.01,
    "reversal_strength": 0.1,
    "confusion_weight": 0.1,
    "ramp": "epoch",
    "repaints": 1,
    "probe_images": 10_000,
}
"""The published schedule. How digits were painted and BlindEye's weight are not at hand: these two are ours."""

SETTINGS = tuple(CHOSEN)

_SEEDS = [0, 1, 2]
DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("reduced", "mnist10k"): {
        "seeds": _SEEDS,
        "color_variances": [0.02, 0.05],
        "start_from_baseline": False,
        **CHOSEN,
    },
    ("reduced", "mnist"): {
        "seeds": _SEEDS,
        "color_variances": [0.02, 0.03, 0.05],
        "start_from_baseline": False,
        # As many steps as the embedded digits are given; on validation digits twice as many are worse.
        **{**CHOSEN, "epochs": 4, "batch_size": 256},
    },
    ("full", "mnist"): {
        "seeds": _SEEDS,
        "color_variances": [0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05],
        "start_from_baseline": True,
        **PUBLISHED,
    },
}
"""The chapter's parameters by scale and data set, see `nuisance.study.start`."""

LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("color_variances", "width", "epochs", "batch_size", "repaints"), above(0)),
    **dict.fromkeys(("learning_rate", "game_learning_rate", "bias_learning_rate"), above(0)),
    **dict.fromkeys(("bias_momentum", "weight_average"), between(0, 1)),
    **dict.fromkeys(
        ("decay_every", "gradient_clip", "entropy_weight", "reversal_strength", "confusion_weight"),
        at_least(0),
    ),
    "probe_images": at_least(100),
    "side": one_of(14, 28),
    "painting": one_of("flat", "multiply"),
    "optimizer": one_of("sgd", "adam"),
    "ramp": one_of("epoch", "progress", "none"),
}
"""What those parameters may be."""
