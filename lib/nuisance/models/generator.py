"""A small generator of images with its encoder and discriminator, for chapter `sec-natural-transformation`.

NaTra (arXiv 2105.04070) works in the latent space of "well-trained generators"; which, its abstract does not say. This
one is our stand-in, small enough for a CPU: a linear layer, then two upsamplings by pixel shuffle (Shi et al. 2016,
arXiv 1609.05158). Its norms are layer norms, so that no image depends on the others of its batch: inverting a batch
is then the same as inverting its images one by one, in training mode too.
"""

import math

import torch
from torch import Tensor, nn

from nuisance.errors import InputError, ParameterError

LARGEST_MAP = 16
"""No map from which latents or scores are read is larger: of images of 256 pixels a linear layer would be too large."""


class LatentGenerator(nn.Module):
    """Latents ``[b, latent]`` -> images ``[b, channels, side, side]`` in [0, 1].

    Parameters
    ----------
    latent : d, numbers in a latent.
    width : channels at full size; there are 2 ``width`` at half size and 4 ``width`` at a quarter.
    channels, side : of the images; the side is a multiple of 4.

    Raises
    ------
    ParameterError
        If a number is not a whole positive one, or the side is no multiple of 4.
    InputError
        If the latents have another size.
    """

    def __init__(self, *, latent: int = 32, width: int = 16, channels: int = 1, side: int = 28) -> None:
        super().__init__()
        self.settings = _checked(latent=latent, width=width, channels=channels, side=side)
        self.latent, self.width, self.side = latent, width, side
        self.first = nn.Linear(latent, 4 * width * (side // 4) ** 2)
        self.to_half = _upsample(4 * width, 2 * width)
        self.to_full = _upsample(2 * width, width)
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    @property
    def first_weight(self) -> Tensor:
        """The weights that first consume a latent, ``[out, latent]``, whose columns SeFa looks at."""
        return self.first.weight

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Latents ``[count, latent]``, normal, on the CPU."""
        return torch.randn(count, self.latent, generator=random)

    def early(self, w: Tensor) -> Tensor:
        """Latents ``[b, latent]`` -> features ``[b, 2 width, side / 2, side / 2]``, behind the first upsampling."""
        if w.ndim != 2 or w.shape[1] != self.latent:
            raise InputError(
                f"The latents are {list(w.shape)} but this generator takes [b, {self.latent}]; "
                "use the encoder that was trained with it."
            )
        quarter = self.side // 4
        return self.to_half(torch.relu(self.first(w)).view(len(w), 4 * self.width, quarter, quarter))

    def late(self, features: Tensor) -> Tensor:
        """What `early` made, or a mixture of several -> images ``[b, channels, side, side]`` in [0, 1]."""
        return self.out(self.to_full(features)).sigmoid()

    def forward(self, w: Tensor) -> Tensor:
        """Images, see the class."""
        return self.late(self.early(w))


class ImageEncoder(nn.Module):
    """Images ``[b, channels, side, side]`` in [0, 1] -> latents ``[b, latent]``, the means of `posterior`.

    Parameters
    ----------
    latent, channels, side : see `LatentGenerator`.
    width : a quarter of the channels of the maps that the latents are read from.

    Raises
    ------
    ParameterError
        As `LatentGenerator`.
    InputError
        If the images have another size.
    """

    def __init__(self, *, latent: int = 32, width: int = 16, channels: int = 1, side: int = 28) -> None:
        super().__init__()
        self.settings = _checked(latent=latent, width=width, channels=channels, side=side)
        self.latent = latent
        self.layers, small = _downsample(channels, width, side)
        self.out = nn.Linear(4 * width * small**2, 2 * latent)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of the variances of a Gaussian with independent numbers, each ``[b, latent]``."""
        _require_images(x, self.settings)
        mean, log_variance = self.out(self.layers(x).flatten(1)).chunk(2, 1)
        return mean, log_variance

    def forward(self, x: Tensor) -> Tensor:
        """Latents, see the class."""
        return self.posterior(x)[0]


class ImageDiscriminator(nn.Module):
    """Images ``[b, channels, side, side]`` in [0, 1] -> scores ``[b]``, positive where they look real.

    Parameters
    ----------
    width : a quarter of the channels of `features`.
    channels, side : see `LatentGenerator`.

    Raises
    ------
    ParameterError, InputError
        As `ImageEncoder`.
    """

    def __init__(self, *, width: int = 16, channels: int = 1, side: int = 28) -> None:
        super().__init__()
        self.settings = _checked(width=width, channels=channels, side=side)
        self.layers, small = _downsample(channels, width, side)
        self.out = nn.Linear(4 * width * small**2, 1)

    def features(self, x: Tensor) -> Tensor:
        """The last maps, ``[b, 4 width, small, small]``; ``small`` is side / 4 for images of up to 64 pixels.

        Behind a norm, so that their scale cannot run away.
        """
        _require_images(x, self.settings)
        return self.layers(x)

    def judge(self, features: Tensor) -> Tensor:
        """Scores ``[b]`` of what `features` gave."""
        return self.out(features.flatten(1)).squeeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, see the class."""
        return self.judge(self.features(x))


def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of all convolutions and linear layers, normal with variance 2 / inputs (He et al. 2015).

    Biases are 0, and an encoder's last weights 1/20 of that: latents that start as noise, and grow where images need
    them, reconstruct sooner than latents that start large and are not of use. ``generator`` is of the CPU, and the
    module still lies there.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.weight[0].numel()), generator=generator)
            assert layer.bias is not None  # none is built without
            nn.init.zeros_(layer.bias)
    for part in module.modules():
        if isinstance(part, ImageEncoder):
            part.out.weight.data /= 20


def _upsample(inputs: int, outputs: int) -> nn.Sequential:
    """Maps ``[b, inputs, h, w]`` -> ``[b, outputs, 2h, 2w]``."""
    return nn.Sequential(
        # the convolution makes the four pixels that come of each, while the maps are still small
        nn.Conv2d(inputs, 4 * outputs, 3, padding=1),
        nn.PixelShuffle(2),
        nn.GroupNorm(1, outputs),
        nn.ReLU(inplace=True),
    )


def _downsample(channels: int, width: int, side: int) -> tuple[nn.Sequential, int]:
    """Images ``[b, channels, side, side]`` -> maps ``[b, 4 width, small, small]``, and ``small``.

    It is a quarter of the side, and halved further while it is above `LARGEST_MAP`.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, 2 * width, 4, stride=2, padding=1)]
    layers += [nn.LeakyReLU(0.2, inplace=True)]
    layers += [nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1), nn.GroupNorm(1, 4 * width)]
    layers += [nn.LeakyReLU(0.2, inplace=True)]
    small = side // 4
    while small > LARGEST_MAP:
        layers += [nn.Conv2d(4 * width, 4 * width, 4, stride=2, padding=1), nn.GroupNorm(1, 4 * width)]
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        small //= 2
    layers += [nn.Conv2d(4 * width, 4 * width, 3, padding=1), nn.GroupNorm(1, 4 * width)]
    return nn.Sequential(*layers, nn.LeakyReLU(0.2, inplace=True)), small


def _checked(**sizes: int) -> dict[str, int]:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ParameterError(f"{name} is {size!r} but must be a whole number, 1 or more.")
    if sizes["side"] % 4:
        raise ParameterError(
            f"side is {sizes['side']} but must be a multiple of 4; crop, pad or resize the images."
        )
    return sizes


def _require_images(x: Tensor, settings: dict[str, int]) -> None:
    wanted = [settings["channels"], settings["side"], settings["side"]]
    if x.ndim != 4 or list(x.shape[1:]) != wanted:
        raise InputError(
            f"The images are {list(x.shape)} but this network takes [b, {', '.join(map(str, wanted))}]; "
            "build it with the images' channels and side."
        )
