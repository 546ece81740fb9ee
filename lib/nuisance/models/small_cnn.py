"""A network small enough to be trained within seconds, for reduced runs of Gradient-OOD."""

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three convolutions and a linear head: images ``[b, in_channels, h, w]`` in [0, 1] -> logits ``[b, classes]``.

    Each of ``layer1`` to ``layer3`` is a 3x3 convolution without bias, batch norm and ReLU, so that a
    score may be restricted to one of them by its name; ``fc`` is the head.

    Parameters
    ----------
    classes : number of classes.
    in_channels : channels of the images.
    width : channels after ``layer1``; ``layer2`` and ``layer3`` double them and halve the image's sides.
    """

    def __init__(self, *, classes: int, in_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.layer1 = _block(in_channels, width, stride=1)
        self.layer2 = _block(width, 2 * width, stride=2)
        self.layer3 = _block(2 * width, 4 * width, stride=2)
        self.fc = nn.Linear(4 * width, classes)

    def features(self, x: Tensor) -> Tensor:
        """The last block's output averaged over the image, ``[b, 4 * width]``."""
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, see the class."""
        return self.fc(self.features(x))


def _block(in_channels: int, channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
