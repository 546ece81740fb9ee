"""The two players of a CycleGAN (Zhu et al. 2017, arXiv 1703.10593), small enough for 32-pixel images on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.errors import InputError

SHRINK = 4
"""The generator works on images this many times smaller."""


class Generator(nn.Module):
    """Images ``[b, 3, h, w]`` in [-1, 1] -> their translations, of the same shape and range.

    G(x) = m(x) g(x) + (1 - m(x)) x with a learnt soft mask m in (0, 1), one value a pixel, after
    Mejjati et al. (2018, arXiv 1806.02311), who learn the mask with a network of its own. CycleGAN's
    generator draws the whole image anew, which takes many images and steps to learn; here what is not
    to be changed is kept by closing the mask.

    Parameters
    ----------
    width : channels at half the image's size; a quarter of the size has twice as many.
    blocks : residual blocks at a quarter of the size.

    Raises
    ------
    InputError
        If a side of the images is not a multiple of 4.
    """

    def __init__(self, *, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.shrink = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.InstanceNorm2d(2 * width, affine=True),
            nn.ReLU(),
            *(_Block(2 * width) for _ in range(blocks)),
        )
        self.grow = nn.Sequential(
            nn.Upsample(scale_factor=2),  # with transposed convolutions the grid of their strides shows
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.InstanceNorm2d(width, affine=True),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
        )
        # beside what has been through the bottleneck the image itself, so that the mask can follow its contours
        self.draw = nn.Conv2d(width + 3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Translations, see the class."""
        if x.shape[2] % SHRINK or x.shape[3] % SHRINK:
            raise InputError(
                f"The images are {x.shape[2]} x {x.shape[3]} but the sides must be multiples of {SHRINK}; "
                "crop or resize them."
            )
        drawn = self.draw(torch.cat([self.grow(self.shrink(x)), x], 1))
        mask = torch.sigmoid(drawn[:, 3:])
        return mask * torch.tanh(drawn[:, :3]) + (1 - mask) * x


class PatchDiscriminator(nn.Module):
    """Images ``[b, 3, h, w]`` in [-1, 1] -> logits ``[b, 1, h / 4, w / 4]``, each that 26 x 26 pixels are real."""

    def __init__(self, *, width: int = 16) -> None:
        super().__init__()
        self.judge = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.InstanceNorm2d(2 * width, affine=True),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, see the class."""
        return self.judge(x)


class _Block(nn.Module):
    """Two convolutions with instance norm beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.InstanceNorm2d(channels, affine=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
