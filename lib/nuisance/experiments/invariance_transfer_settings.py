"""The parameters of chapter `sec-invariance-transfer`, by scale and data set.

They stand apart from the experiment, which is given them as arguments: a default that changes leaves
finished parts valid.
"""

from typing import Any

from nuisance.experiments.invariance_transfer_data import NATURAL, NUISANCES
from nuisance.limits import Limit, above, at_least, one_of

_CLASSIFIER: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 0.1,
    "blocks": 1,
    "width": 16,
    "stem_stride": 2,
    "epochs": 11,
    "deferral": 8,
    "warm_up": 2,
    "decay": 0.1,
    "crop_and_flip": False,
}
_GENERATOR: dict[str, Any] = {
    "generator_width": 8,
    "generator_blocks": 1,
    "generator_halvings": 1,
    "style_dimensions": 2,
    "style_stages": 1,
    "discriminator_stages": 3,
    "generator_batch": 16,
    "generator_steps": 600,
    "generator_rate": 3e-3,
    "generator_halve_every": 200,
    "image_weight": 10.0,
    "content_weight": 1.0,
}
_JUDGEMENT: dict[str, Any] = {
    "judge_epochs": 2,
    "report_images": 20,
    "kl_images": 20,
    "kl_draws": 10,
    "share": 0.5,
}
_REDUCED: dict[str, Any] = {
    "seeds": [0, 1, 2],
    "largest": 1200,
    "smallest": 5,
    "exponent": 2.0,
    "imbalance": 100.0,
    **_CLASSIFIER,
    **_GENERATOR,
    **_JUDGEMENT,
}
_PUBLISHED: dict[str, Any] = {
    **_REDUCED,
    "batch_size": 128,
    "blocks": 3,
    "stem_stride": 1,
    "epochs": 50,
    "deferral": 30,
    "warm_up": 5,
    "decay": 0.01,
    "generator_width": 64,
    "generator_blocks": 4,
    "generator_halvings": 2,
    "style_dimensions": 8,
    "style_stages": 2,
    "discriminator_stages": 4,
    "generator_batch": 2,
    "generator_steps": 10_000,
    "generator_rate": 1e-4,
    "generator_halve_every": 100_000,
    "judge_epochs": 10,
    "kl_images": 40,
    "kl_draws": 100,
}
_NUISANCES = ["rotation", "background", "dilation"]
_NATURAL: dict[str, Any] = {"nuisances": [NATURAL], "generated": [NATURAL], "compared": NATURAL}
_SAMPLE: dict[str, Any] = {
    **_REDUCED,
    **_NATURAL,
    "generator_width": 16,
    "style_dimensions": 8,
    "generator_steps": 2000,
    "generator_halve_every": 700,
}
_PUBLISHED_CIFAR: dict[str, Any] = {
    **_PUBLISHED,
    **_NATURAL,
    "blocks": 5,
    "epochs": 200,
    "deferral": 160,
    "crop_and_flip": True,
    "generator_steps": 140_000,
}

DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("reduced", "fashion_mnist20k"): {
        **_REDUCED,
        "nuisances": _NUISANCES,
        "generated": ["background", "dilation"],
        "compared": "background",
        "generator_steps": 500,
        "threshold": 100,
        "thresholds": [50, 200],
    },
    ("reduced", "cifar10"): {
        **_SAMPLE,
        "largest": 700,
        "imbalance": 50.0,
        "judge_epochs": 40,
        "epochs": 40,
        "deferral": 30,
        "crop_and_flip": True,
        "threshold": 100,
        "thresholds": [50, 300],
    },
    ("reduced", "gtsrb"): {
        **_SAMPLE,
        "largest": 200,
        "exponent": 1.8,
        "judge_epochs": 80,
        "epochs": 120,
        "deferral": 90,
        "threshold": 25,
        "thresholds": [10, 50],
    },
    ("full", "kuzushiji49"): {
        **_PUBLISHED,
        "seeds": list(range(30)),
        "largest": 4828,
        "nuisances": _NUISANCES,
        "generated": ["background", "dilation"],
        "compared": "background",
        "threshold": 100,
        "thresholds": [20, 50, 200, 500],
    },
    ("full", "cifar10"): {
        **_PUBLISHED_CIFAR,
        "largest": 5000,
        "threshold": 500,
        "thresholds": [20, 100, 1000],
    },
    ("full", "cifar100"): {
        **_PUBLISHED_CIFAR,
        "largest": 500,
        "threshold": 100,
        "thresholds": [20, 50, 200],
    },
    ("full", "gtsrb"): {
        **_PUBLISHED,
        **_NATURAL,
        "largest": 2000,
        "exponent": 1.8,
        "threshold": 25,
        "thresholds": [10, 50, 100],
    },
}
"""The chapter's parameters by scale and data set, see `nuisance.study.start`."""

LIMITS: dict[str, Limit] = {
    **dict.fromkeys(
        (
            *("smallest", "batch_size", "learning_rate", "blocks", "width", "stem_stride"),
            *("epochs", "deferral", "decay", "threshold", "thresholds", "judge_epochs", "report_images"),
            *("generator_width", "generator_blocks", "generator_halvings", "style_dimensions"),
            *("generator_batch", "generator_steps", "generator_rate", "generator_halve_every"),
            *("discriminator_stages", "kl_draws"),
        ),
        above(0),
    ),
    **dict.fromkeys(("exponent", "warm_up", "style_stages", "image_weight", "content_weight"), at_least(0)),
    **dict.fromkeys(("largest", "kl_images"), at_least(2)),
    "imbalance": at_least(1),
    "seeds": at_least(0),
    "share": Limit("at least 0, up to 1", lambda share: 0 <= share <= 1),
    **dict.fromkeys(("nuisances", "generated", "compared"), one_of(*NUISANCES)),
}
"""What those parameters may be."""

NAMES = {
    "fashion_mnist20k": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    ),
}
"""What classes are called, by data set, where they are few."""
