"""The parameters of chapter `sec-natural-transformation`, by scale and data set.

They stand apart from the experiment, which is given them as arguments: a default that changes leaves
finished parts valid.
"""

from typing import Any

from nuisance.limits import Limit, above, at_least, between

_REDUCED: dict[str, Any] = {
    "seeds": [0, 1, 2],
    "images": 1500,
    "test_images": 600,
    "side": 28,
    "cap": 0,
    "generator_file": "",
    "latent": 32,
    "generator_width": 12,
    "discriminator_width": 8,
    "generator_steps": 1000,
    "generator_batch": 32,
    "generator_rate": 2e-3,
    "shift_steps": 10,
    "shift_rate": 0.05,
    "reconstruction_steps": 60,
    "expansion_images": 64,
    "codes": 4,
    "directions": 12,
    "direction_images": 200,
    "direction_steps": 300,
    "direction_rate": 1e-3,
    "direction_reach": 3.0,
    "amplitudes": [0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8],
    "amplitude": 1.0,
    "smallest_change": 0.005,
    "largest_flip": 0.05,
    "judge_epochs": 3,
    "epochs": 9,
    "batch_size": 64,
    "learning_rate": 5e-3,
    "width": 12,
    "draws": 4,
    "ascent_steps": 2,
    "rho": 0.5,
    "epsilon": 0.03,
    "edit_images": 100,
}
_FACES: dict[str, Any] = {
    **_REDUCED,
    "side": 64,
    "generator_width": 32,
    "discriminator_width": 16,
    "latent": 64,
    "codes": 8,
    "epsilon": 8 / 255,
}

DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("reduced", "fashion_mnist20k"): _REDUCED,
    ("reduced", "celeba"): {**_FACES, "cap": 1000, "images": 1500},
    ("full", "celeba"): {
        **_FACES,
        "images": 20_000,
        "test_images": 19_962,
        "latent": 128,
        "generator_width": 64,
        "discriminator_width": 32,
        "generator_steps": 200_000,
        "generator_batch": 64,
        "shift_steps": 100,
        "shift_rate": 0.01,
        "reconstruction_steps": 200,
        "expansion_images": 128,
        "directions": 32,
        "direction_images": 2000,
        "direction_steps": 100_000,
        "direction_rate": 1e-4,
        "judge_epochs": 10,
        "epochs": 30,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "width": 64,
        "draws": 8,
        "ascent_steps": 7,
        "edit_images": 2000,
    },
}
"""The chapter's parameters by scale and data set, see `nuisance.study.start`. The study's own are not at hand."""

LIMITS: dict[str, Limit] = {
    **dict.fromkeys(
        (
            *("images", "test_images", "side", "latent", "generator_width", "discriminator_width"),
            *("generator_steps", "generator_batch", "generator_rate", "shift_steps", "shift_rate"),
            *("reconstruction_steps", "expansion_images", "codes", "directions", "direction_images"),
            *(
                "direction_steps",
                "direction_rate",
                "direction_reach",
                "amplitudes",
                "amplitude",
                "judge_epochs",
                "epochs",
                "batch_size",
            ),
            *("learning_rate", "width", "draws", "epsilon", "edit_images"),
        ),
        above(0),
    ),
    **dict.fromkeys(("seeds", "cap", "ascent_steps", "smallest_change"), at_least(0)),
    "largest_flip": between(0, 1),
    "rho": Limit("above 0, up to 1", lambda share: 0 < share <= 1),
}
"""What those parameters may be."""
