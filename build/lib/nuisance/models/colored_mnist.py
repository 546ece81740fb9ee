"""The networks of Learning Not to Learn for Colored MNIST (chapter `sec-learning-not-to-learn`).

Published sizes: ``width=32``. Three parts: a feature net f, a label net g on f, and a bias net h
on f that predicts the colour at every position. Layers as in the authors' released code
(github.com/feidfoe/learning-not-to-learn), with one change that leaves the function as it was:
the three bias predictors (red, green, blue) are one net with grouped convolutions, since three
small convolutions one after the other cost three times the overhead.
"""

import math

import torch
from torch import Tensor, nn

BINS = 8
"""Intervals into which each colour channel is cut for the bias net."""


class FeatureNet(nn.Sequential):
    """f: colour images ``[b, 3, s, s]`` in [0, 1] -> features ``[b, width, s/2, s/2]``."""

    def __init__(self, width: int = 32) -> None:
        super().__init__(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, width, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        _normal_init(self)


class LabelNet(nn.Sequential):
    """g: features ``[b, width, s/2, s/2]`` -> logits ``[b, classes]``."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, classes),
        )
        _normal_init(self)


class BiasNet(nn.Module):
    """h: features ``[b, width, s/2, s/2]`` -> logits of the colour bins ``[b, bins, 3, s/2, s/2]``.

    The bins stand in the second place, where `torch.nn.functional.cross_entropy` wants its classes.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, 3 * width, 3, padding=1),
            nn.BatchNorm2d(3 * width),
            nn.ReLU(),
            nn.Conv2d(3 * width, 3 * BINS, 3, padding=1, groups=3),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the bins, see the class."""
        logits = self.layers(features)
        batch, _, height, breadth = logits.shape
        return logits.view(batch, 3, BINS, height, breadth).transpose(1, 2)


def _normal_init(net: nn.Module) -> None:
    """The released initialisation: convolutions N(0, 2 / (k^2 * out)), biases left as they are."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            torch.nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
