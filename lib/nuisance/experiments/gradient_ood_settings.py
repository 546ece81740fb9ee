"""The parameters of chapters `sec-gradient-ood` and `sec-gradient-ood-anatomy`, by scale and data set.

They stand apart from the experiment, which is given them as arguments: a default that changes leaves
finished parts valid.
"""

from typing import Any

from nuisance.limits import Limit, above, at_least, one_of
from nuisance.ood import grid

_WHOLE = {"coarse_epsilons": list(grid.EPSILONS), "coarse_temperatures": list(grid.TEMPERATURES)}
_COMMON = {"epsilons": list(grid.EPSILONS), "temperatures": list(grid.TEMPERATURES), "resamples": 1000}
_COARSE = {"coarse_epsilons": [0, 0.001, 0.002, 0.004], "coarse_temperatures": [1, 2, 5, 10, 1000]}
_GARMENT_EPSILONS = [0, 0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05]

DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("reduced", "fashion_mnist20k"): {
        **_COMMON,
        "resamples": 300,
        "seeds": [0, 1, 2, 3],
        "networks": ["small_cnn", "small_resnet"],
        "reference": "small_cnn",
        "held_out": [1, 4, 7, 8],
        "pool_images": 1500,
        "epochs": 4,
        "validation_images": 100,
        "known_images": 500,
        "test_images": 250,
        "batch_size": 64,
        # An image of 28 pixels a side takes a larger step than a photograph.
        "epsilons": _GARMENT_EPSILONS,
        "coarse_epsilons": _GARMENT_EPSILONS,
        "coarse_temperatures": list(grid.TEMPERATURES),
        "whole_sets": ["selected", "random", "restyled"],
    },
    ("reduced", "cifar10"): {
        **_COMMON,
        **_WHOLE,
        "seeds": [0],
        "networks": ["resnet20_cifar10"],
        "reference": "small_resnet",
        "epochs": 4,
        "validation_images": 150,
        "known_images": 1000,
        "test_images": 300,
        "batch_size": 64,
        "whole_sets": ["selected", "random", "restyled"],
    },
    ("reduced", "imagenet"): {
        **_COMMON,
        **_COARSE,
        "seeds": [0],
        "networks": ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"],
        "reference": "efficientnet_lite2",
        "outlier_folders": ["dtd/images", "scenes/forest"],
        "leave_out": ["cobwebbed", "bubbly", "honeycombed"],
        "validation_images": 100,
        "known_images": 200,
        "test_images": 100,
        "batch_size": 5,
        "whole_sets": ["selected"],
    },
    ("full", "imagenet"): {
        **_COMMON,
        **_WHOLE,
        "seeds": [0],
        "networks": ["resnet18", "resnet50", "densenet161"],
        "reference": "resnet50",
        "outlier_folders": ["imagenet-o"],
        "leave_out": ["none"],
        "validation_images": 500,
        "known_images": 48_500,
        "test_images": 500,
        "batch_size": 64,
        "whole_sets": ["selected", "random", "restyled"],
    },
}
"""The chapters' parameters by scale and data set, see `nuisance.study.start`."""

NETWORKS = (
    "small_cnn",
    "small_resnet",
    "resnet20_cifar10",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "resnet18",
    "resnet50",
    "densenet161",
)

LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("epochs", "pool_images", "known_images", "test_images", "batch_size"), above(0)),
    **dict.fromkeys(("epsilons", "coarse_epsilons"), at_least(0)),
    **dict.fromkeys(("temperatures", "coarse_temperatures"), above(0)),
    **dict.fromkeys(("networks", "reference"), one_of(*NETWORKS)),
    "validation_images": at_least(20),
    "resamples": at_least(100),
    "held_out": Limit("a class from 0 to 9", lambda value: 0 <= value <= 9),
    "whole_sets": one_of("selected", "random", "restyled"),
}
"""What those parameters may be."""

SETS = (
    "held_out",
    "pool_images",
    "validation_images",
    "known_images",
    "test_images",
    "outlier_folders",
    "leave_out",
    "batch_size",
)
"""The parameters that the images of a run depend on."""
