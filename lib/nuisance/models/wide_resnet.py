"""The wide residual networks of Zagoruyko & Komodakis 2016 (table 1), without dropout."""

import torch
from torch import Tensor, nn

from nuisance.errors import ParameterError


class WideResNet(nn.Module):
    """WRN-``depth``-``width``: normalised images ``[b, in_channels, h, w]`` -> logits ``[b, classes]``.

    Batch norm and ReLU come before each convolution; where a block changes the shape, its shortcut is a
    1x1 convolution of the activated input.

    Parameters
    ----------
    depth : weighted layers, ``6 * n + 4`` for ``n`` blocks in each of the three stages.
    width : the factor by which the stages are wider than 16, 32 and 64 channels.
    classes : number of classes.
    in_channels : channels of the images.

    Raises
    ------
    ParameterError
        If no number of blocks gives that depth.
    """

    def __init__(self, *, depth: int = 28, width: int = 10, classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ParameterError(
                f"depth is {depth} but must be 6 n + 4 for n blocks a stage, such as 10, 16 or 28."
            )
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16 * width, blocks, stride=1)
        self.layer2 = _stage(16 * width, 32 * width, blocks, stride=2)
        self.layer3 = _stage(32 * width, 64 * width, blocks, stride=2)
        self.bn = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """The last activations averaged over the image, ``[b, 64 * width]``."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return torch.relu(self.bn(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, see the class."""
        return self.fc(self.features(x))


class _Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        changes = stride != 1 or in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(self.bn1(x))
        out = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


def _stage(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = _Block(in_channels, channels, stride=stride)
    return nn.Sequential(first, *(_Block(channels, channels, stride=1) for _ in range(blocks - 1)))
