"""The networks of MUNIT (Huang et al. 2018, arXiv 1804.04732), the generator of chapter `sec-invariance-transfer`.

An image is taken apart into a content, which keeps its place in the image, and a style, one vector for the whole
image; a decoder puts a content together with any style. At width 64 they are what the released code of Zhou et al.
(2022, arXiv 2203.09739) builds, weight for weight and drawn from the same distributions; narrower they suit images of
28 pixels on a CPU. Every convolution pads by reflection.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.errors import InputError, ParameterError


class StyleEncoder(nn.Module):
    """Images ``[b, c, h, w]`` -> styles ``[b, dimensions]``; without norms, which would take the style away.

    Parameters
    ----------
    in_channels : channels of the images.
    width : channels at full size; they double twice, and then stay.
    dimensions : numbers in a style.
    extra_stages : further halvings after the first two.

    Raises
    ------
    InputError
        If the images have other channels, or a side that is no multiple of 4 or has nothing left to halve.
    """

    def __init__(
        self, *, in_channels: int = 3, width: int = 64, dimensions: int = 8, extra_stages: int = 2
    ) -> None:
        super().__init__()
        self.in_channels, self.stages = in_channels, 2 + extra_stages
        widths = [width, 2 * width] + [4 * width] * (1 + extra_stages)
        layers: list[nn.Module] = [_conv(in_channels, width, 7), nn.ReLU(inplace=True)]
        for narrow, wide in pairwise(widths):
            layers += [_conv(narrow, wide, 4, stride=2), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(4 * width, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Styles, see the class."""
        _check(x, self.in_channels, self.stages)
        return self.out(self.layers(x).mean((2, 3)))


class ContentEncoder(nn.Module):
    """Images ``[b, c, h, w]`` -> contents ``[b, k width, h / k, w / k]``; instance norms take the style away.

    Parameters
    ----------
    in_channels : channels of the images.
    width : channels at full size; they double with every halving.
    residual_blocks : at the content's size.
    halvings : of the size, so that k = 2^halvings.

    Raises
    ------
    InputError
        If the images have other channels, or a side that is no multiple of k or not above it.
    """

    def __init__(
        self, *, in_channels: int = 3, width: int = 64, residual_blocks: int = 4, halvings: int = 2
    ) -> None:
        super().__init__()
        self.in_channels, self.halvings = in_channels, halvings
        widths = [width * 2**halving for halving in range(halvings + 1)]
        layers: list[nn.Module] = [_conv(in_channels, width, 7), _InstanceNorm(), nn.ReLU(inplace=True)]
        for narrow, wide in pairwise(widths):
            layers += [_conv(narrow, wide, 4, stride=2), _InstanceNorm(), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, *(_Residual(widths[-1]) for _ in range(residual_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Contents, see the class."""
        # a content of one pixel would have a norm of 0
        _check(x, self.in_channels, self.halvings + 1, multiple=2**self.halvings)
        return self.layers(x)


class Decoder(nn.Module):
    """Contents ``[b, k width, h, w]`` and styles ``[b, style_dimensions]`` -> images ``[b, c, kh, kw]`` in [-1, 1].

    A perceptron of three layers turns the style into the scales and shifts of the adaptive instance norms (`adain`)
    of the residual blocks, and this is the style's only way into the image.

    Parameters
    ----------
    in_channels : channels of the images.
    width : channels at full size.
    residual_blocks : at the content's size.
    style_dimensions : numbers in a style.
    halvings : those of the content, so that k = 2^halvings.
    hidden : width of the perceptron's two inner layers; None for 4 times ``width``.

    Raises
    ------
    ParameterError
        If there is no residual block.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        width: int = 64,
        residual_blocks: int = 4,
        style_dimensions: int = 8,
        halvings: int = 2,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if residual_blocks < 1:
            raise ParameterError(
                f"residual_blocks is {residual_blocks}, but the style enters the image through them; take 1 at least."
            )
        hidden = 4 * width if hidden is None else hidden
        widths = [width * 2**halving for halving in reversed(range(halvings + 1))]
        self.blocks = nn.ModuleList(_Residual(widths[0]) for _ in range(residual_blocks))
        self.perceptron = nn.Sequential(
            *(nn.Linear(style_dimensions, hidden), nn.ReLU(inplace=True)),
            *(nn.Linear(hidden, hidden), nn.ReLU(inplace=True)),
            # two norms a block, a scale and a shift each
            nn.Linear(hidden, residual_blocks * 2 * 2 * widths[0]),
        )
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(widths):
            # a group norm with one group is a layer norm with a scale and a shift a channel
            layers += [nn.Upsample(scale_factor=2), _conv(wide, narrow, 5)]
            layers += [nn.GroupNorm(1, narrow), nn.ReLU(inplace=True)]
        self.grow = nn.Sequential(*layers, _conv(width, in_channels, 7), nn.Tanh())

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """Images, see the class."""
        # [blocks, norm, shift or scale, b, channels, 1, 1]
        adaptive = self.perceptron(style).view(len(style), -1, 2, 2, content.shape[1], 1, 1).movedim(0, 3)
        for block, (first, second) in zip(self.blocks, adaptive, strict=True):
            content = block(content, first, second)
        return self.grow(content)


class PatchDiscriminator(nn.Module):
    """Images ``[b, c, h, w]`` -> scores ``[b, 1, h / 2^stages, w / 2^stages]``, near 1 where they look real.

    Parameters
    ----------
    in_channels : channels of the images.
    width : channels after the first convolution; they double with every further one.
    stages : convolutions, each of which halves the size.

    Raises
    ------
    InputError
        If the images have other channels, or a side that is no multiple of 4 or has nothing left to halve.
    """

    def __init__(self, *, in_channels: int = 3, width: int = 64, stages: int = 4) -> None:
        super().__init__()
        self.in_channels, self.stages = in_channels, stages
        widths = [in_channels, *(width * 2**stage for stage in range(stages))]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [_conv(narrow, wide, 4, stride=2), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scores, see the class."""
        _check(x, self.in_channels, self.stages)
        return self.layers(x)


class AutoEncoder(nn.Module):
    """The content encoder, the style encoder and the decoder of one generator.

    Parameters
    ----------
    in_channels, width, residual_blocks, style_dimensions, style_stages, halvings, hidden : see `StyleEncoder` (whose
        ``extra_stages`` are ``style_stages``), `ContentEncoder` and `Decoder`.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        width: int = 64,
        residual_blocks: int = 4,
        style_dimensions: int = 8,
        style_stages: int = 2,
        halvings: int = 2,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.style = StyleEncoder(
            in_channels=in_channels, width=width, dimensions=style_dimensions, extra_stages=style_stages
        )
        self.content = ContentEncoder(
            in_channels=in_channels, width=width, residual_blocks=residual_blocks, halvings=halvings
        )
        self.decoder = Decoder(
            in_channels=in_channels,
            width=width,
            residual_blocks=residual_blocks,
            style_dimensions=style_dimensions,
            halvings=halvings,
            hidden=hidden,
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The contents and the styles of images in [-1, 1]."""
        return self.content(x), self.style(x)

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """Images in [-1, 1] of these contents and styles."""
        return self.decoder(content, style)


def instance_norm(x: Tensor) -> Tensor:
    """Every channel of every image ``[b, c, h, w]`` with mean 0 and (biased) variance 1, but for 1e-5."""
    return F.group_norm(x, x.shape[1])  # unlike F.instance_norm it leaves channels last as they are


def adain(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive instance norm, ``scale * instance_norm(x) + shift`` (Huang & Belongie 2017, eq. 8).

    Parameters
    ----------
    x : ``[b, c, h, w]``.
    shift, scale : ``[b, c, 1, 1]``, the means and (where positive) standard deviations of the result.
    """
    return torch.addcmul(shift, scale, instance_norm(x))


def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights as the released code does: Kaiming's normal ones, a discriminator's with deviation 0.02.

    Biases are 0, the layer norms' scales uniform in [0, 1].
    """
    for part in module.modules():
        if isinstance(part, PatchDiscriminator):
            for layer in part.layers:
                if isinstance(layer, nn.Conv2d):
                    _draw(layer, 0.02, generator)
        elif isinstance(part, StyleEncoder | ContentEncoder | Decoder):
            for layer in part.modules():
                if isinstance(layer, nn.GroupNorm):
                    nn.init.uniform_(layer.weight, generator=generator)
                elif isinstance(layer, nn.Conv2d | nn.Linear):
                    _draw(layer, (2 / layer.weight[0].numel()) ** 0.5, generator)


def _draw(layer: nn.Conv2d | nn.Linear, deviation: float, generator: torch.Generator) -> None:
    nn.init.normal_(layer.weight, std=deviation, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class _InstanceNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x)


class _Residual(nn.Module):
    """Two convolutions with instance norms, adaptive where a shift and a scale are given, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, 3)
        self.conv2 = _conv(channels, channels, 3)

    def forward(self, x: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> Tensor:
        inner = F.relu(_norm(self.conv1(x), first), inplace=True)
        return x + _norm(self.conv2(inner), second)


def _norm(x: Tensor, adaptive: Tensor | None) -> Tensor:
    return instance_norm(x) if adaptive is None else adain(x, adaptive[0], adaptive[1])


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    padding = (kernel - 1) // 2
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode="reflect")


def _check(x: Tensor, channels: int, stages: int, multiple: int = 4) -> None:
    """Refuse images of other channels, or whose sides cannot be halved ``stages`` times with reflection."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise InputError(
            f"The images are {list(x.shape)} but must be [b, {channels}, h, w]; "
            "build the networks with the images' in_channels."
        )
    for side in x.shape[2:]:
        if side % multiple or side < 2**stages:
            raise InputError(
                f"The images are {x.shape[2]} x {x.shape[3]} but the sides must be multiples of {multiple} "
                f"and at least {2**stages}; crop or resize them."
            )
