"""The residual networks for 32-pixel images of He et al. 2016, 'Deep Residual Learning', section 4.2.

Modules bear the names that github.com/akamaster/pytorch_resnet_cifar10 gives them, so that its trained
weights load as they are.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.errors import ParameterError


class CifarResNet(nn.Module):
    """ResNet-20 and its kin: normalised images ``[b, in_channels, h, w]`` -> logits ``[b, classes]``.

    Parameters
    ----------
    blocks : residual blocks a stage; with three stages the network has ``6 * blocks + 2`` weighted layers.
    widths : channels of ``layer1``, ``layer2`` and ``layer3``; the last two halve the image's sides.
    in_channels : channels of the images.
    classes : number of classes.
    stem_stride : 2 halves the image's sides in the first convolution already, for a quarter of the time; theirs is 1.

    Raises
    ------
    ParameterError
        If there are not three widths or one is below the width before it: a shortcut of kind A has no
        parameters and can only add channels.
    """

    def __init__(
        self,
        *,
        blocks: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        in_channels: int = 3,
        classes: int = 10,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if len(widths) != 3 or list(widths) != sorted(widths):
            raise ParameterError(
                f"widths is {tuple(widths)} but must be three widths, none below the one before it."
            )
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[0], blocks, stride=1)
        self.layer2 = _stage(widths[0], widths[1], blocks, stride=2)
        self.layer3 = _stage(widths[1], widths[2], blocks, stride=2)
        self.linear = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def features(self, x: Tensor) -> Tensor:
        """The last block's output averaged over the image, ``[b, widths[2]]``."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, see the class."""
        return self.linear(self.features(x))


class _Block(nn.Module):
    """Two convolutions beside a shortcut of kind A: every second pixel, new channels filled with zeros."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        added, stride = out.shape[1] - x.shape[1], self.conv1.stride[0]
        # the paper does not say where the zeros stand; half before and half behind is what the weights expect
        shortcut = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, added // 2, added - added // 2))
        return torch.relu(out + shortcut)


def _stage(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = _Block(in_channels, channels, stride=stride)
    return nn.Sequential(first, *(_Block(channels, channels, stride=1) for _ in range(blocks - 1)))
