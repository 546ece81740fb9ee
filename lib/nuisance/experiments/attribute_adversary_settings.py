"""The parameters of chapter `sec-attribute-adversary`, by scale and data set.

They stand apart from the experiment, which is given them as arguments: a default that changes leaves
finished parts valid.
"""

from typing import Any

from nuisance.limits import Limit, above, at_least, between, one_of

NETWORKS = ("small_cnn", "efficientnet_lite0", "resnet50")

_COMMON: dict[str, Any] = {
    "seeds": [0, 1, 2],
    "batch_size": 128,
    "strength": 0.5,
    "dro_step": 0.01,
    "dro_adjustment": 0.0,
    "adversary_width": 64,
    "adversary_steps": 0,
    "adversary_rate": 1.0,
    "probe_epochs": 30,
    "resamples": 1000,
    "pretraining_epochs": 4,
    # There is time for a few hundred steps: ten times the authors' rate, and a third of their weight of the cycle.
    "translator_rate": 2e-3,
    "translator_cycle": 3.0,
}
_PHOTOS: dict[str, Any] = {
    **_COMMON,
    "strengths": [0.5],
    "gate": 0.9,
    "patch_weight": 5.0,
    "patch_adjustment": 3.0,
}
_CAPPED: dict[str, Any] = {
    **_PHOTOS,
    "network": "efficientnet_lite0",
    "size": 96,
    "images": 100,
    "epochs": 4,
    "batch_size": 32,
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "translator_width": 8,
    "translator_steps": 100,
}
_PUBLISHED: dict[str, Any] = {
    **_PHOTOS,
    "network": "resnet50",
    "size": 224,
    "images": 0,
    "learning_rate": 1e-5,
    "translator_width": 32,
    "translator_rate": 2e-4,
    "translator_cycle": 10.0,
    "translator_steps": 200_000,
}

DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("reduced", "garments_outdoors"): {
        **_COMMON,
        "network": "small_cnn",
        "size": 32,
        "images": 1900,
        "epochs": 8,
        "learning_rate": 3e-4,
        "weight_decay": 1e-4,
        "strengths": [0.0, 0.1, 0.5, 1.0, 2.0],
        "gate": 0.7,
        "patch_weight": 5.0,
        "patch_adjustment": 0.0,
        "translator_width": 8,
        "translator_steps": 240,
    },
    ("reduced", "waterbirds"): _CAPPED,
    ("reduced", "celeba"): _CAPPED,
    ("full", "waterbirds"): {
        **_PUBLISHED,
        "epochs": 300,
        "weight_decay": 1.0,
        "patch_weight": 100.0,
        "patch_adjustment": 2.0,
    },
    ("full", "celeba"): {**_PUBLISHED, "epochs": 50, "weight_decay": 0.1},
}
"""The chapter's parameters by scale and data set, see `nuisance.study.start`."""

LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("epochs", "learning_rate", "adversary_width", "adversary_rate", "dro_step"), above(0)),
    **dict.fromkeys(
        ("translator_width", "translator_rate", "translator_steps", "probe_epochs", "pretraining_epochs"),
        above(0),
    ),
    **dict.fromkeys(("translator_cycle", "adversary_steps"), at_least(0)),
    **dict.fromkeys(("weight_decay", "strength", "strengths", "dro_adjustment", "patch_weight"), at_least(0)),
    "patch_adjustment": at_least(0),
    "images": at_least(0),
    "batch_size": at_least(2),
    "seeds": at_least(0),
    "size": at_least(32),
    "gate": between(0, 1),
    "resamples": at_least(100),
    "network": one_of(*NETWORKS),
}
"""What those parameters may be."""

NAMES = {
    "garments_outdoors": (("T-shirt", "dress"), ("land", "water")),
    "waterbirds": (("landbird", "waterbird"), ("land", "water")),
    "celeba": (("not blond", "blond"), ("female", "male")),
}
"""What classes and attributes are called, by data set."""
