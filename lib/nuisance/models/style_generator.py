"""A pretrained generator for the full scale of chapter `sec-natural-transformation`: StyleGAN2.

Karras et al. (2020, arXiv 1912.04958). A mapping network turns normal numbers z into a latent w, and w tells every
layer how strong each of its input channels is. With N(a) = a / sqrt(mean_j a_j^2 + 1e-8), A(a) = sqrt(2) times
leaky_relu(a) of slope 0.2, and c inputs,

    mapping    a' = A(l (W a / sqrt(c) + bias)),  l = 0.01, several times from N(z) on
    style      s = W_s w / sqrt(latent) + bias_s
    layer      a' = A(d conv(W, s a) + strength noise + bias),   d_o = (sum_i,k (s_i W_oik)^2 + 1e-8)^(-1/2)
    image      y' = up(y) + W_y (s a) / sqrt(c) + bias_y

The first layer works on learned features of 4 x 4 pixels. Then the side is doubled again and again, with two layers
each time, of which the first is a transposed convolution; what is doubled is smoothed by the filter [1, 3, 3, 1] / 8
along rows and columns. Every size adds to the image, which is on the scale [-1, 1].

The names of tensors are those of NVIDIA's code for PyTorch (``stylegan2-ada-pytorch``, ``stylegan3``). The noise is
the one that lies beside the weights, so that a latent always makes the same image. Their code cuts activations off at
256, for the sake of half precision; nothing is cut off here. Rosinality's code scales W by 1 / sqrt(9 c) before d, which
makes a difference by the 1e-8 alone.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.errors import DataError, InputError, ParameterError
from nuisance.models.progressive_generator import SLOPE, pixel_norm
from nuisance.models.weights import count_parts, fault_of, tensors_by_name
from nuisance.seeding import generator

EPSILON = 1e-8
MAPPING_RATE = 0.01
"""l, which scales the mapping network's weights at run time and so its learning rate."""
DRAWS = 4096
"""Latents of which their mean and spread are taken."""
_NOISES = 1  # purpose of the random streams


class StyleLayer(nn.Module):
    """A layer: features ``[b, inputs, h, w]`` and latents ``[b, latent]`` -> ``[b, outputs, side, side]``.

    Parameters
    ----------
    up : whether it doubles the side.
    """

    noise_const: Tensor

    def __init__(self, latent: int, inputs: int, outputs: int, *, side: int, up: bool) -> None:
        super().__init__()
        self.affine = nn.Linear(latent, inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(side, side))
        self.up = up

    def forward(self, a: Tensor, w: Tensor) -> Tensor:
        """See the class."""
        style = style_of(self.affine, w)
        a = a * style[..., None, None]
        if self.up:
            a = smooth(F.conv_transpose2d(a, self.weight.transpose(0, 1), stride=2))
        else:
            a = F.conv2d(a, self.weight, padding=1)
        # the weights of an image are never made: their lengths do, since s scales inputs and d outputs
        lengths = style.square() @ self.weight.square().sum((2, 3)).T
        a = a * (lengths + EPSILON).rsqrt()[..., None, None]
        return activate(a + self.noise_strength * self.noise_const + self.bias[:, None, None])


class ToImage(nn.Module):
    """What a size adds to the image: features ``[b, inputs, h, w]`` and latents -> ``[b, channels, h, w]``."""

    def __init__(self, latent: int, inputs: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(latent, inputs)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, a: Tensor, w: Tensor) -> Tensor:
        """See the class."""
        style = style_of(self.affine, w) / math.sqrt(a.shape[1])
        return F.conv2d(a * style[..., None, None], self.weight, self.bias)


class StyleBlock(nn.Module):
    """The layers of one size; the first, without ``inputs``, has learned features to begin with."""

    def __init__(self, latent: int, inputs: int, outputs: int, channels: int, side: int) -> None:
        super().__init__()
        if inputs:
            self.conv0 = StyleLayer(latent, inputs, outputs, side=side, up=True)
        else:
            self.const = nn.Parameter(torch.randn(outputs, side, side))
        self.conv1 = StyleLayer(latent, outputs, outputs, side=side, up=False)
        self.torgb = ToImage(latent, outputs, channels)

    def forward(self, a: Tensor | None, image: Tensor | None, w: Tensor) -> tuple[Tensor, Tensor]:
        """Features and image of half the side, none at the first size -> those of this size."""
        before = self.const.expand(len(w), -1, -1, -1) if a is None else self.conv0(a, w)
        a = self.conv1(before, w)
        added = self.torgb(a, w)
        return a, added if image is None else double(image) + added


class StyleGenerator(nn.Module):
    """Latents ``[b, latent]`` -> images ``[b, channels, side, side]`` in [0, 1].

    A latent u stands for w = mean + spread u, with the mean of the mapping network's latents and the standard deviation
    of their numbers around it (see `standardise`), so that latents are about as large as normal numbers, as other
    generators take them, and an amplitude says the same of each. All layers have the same w. What the network draws
    outside [0, 1] is cut off, and has no gradient there.

    Parameters
    ----------
    normal : numbers in z.
    latent : d, numbers in a latent.
    mappings : layers of the mapping network.
    widths : channels at 4 x 4 pixels, at 8 x 8, at 16 x 16 and so on up to ``side``.
    channels : of the images.

    Raises
    ------
    ParameterError
        If a number is not a whole positive one, or there is no width.
    InputError
        If the latents have another size.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self, *, normal: int, latent: int, mappings: int, widths: Sequence[int], channels: int = 3
    ) -> None:
        super().__init__()
        sizes = (normal, latent, mappings, *widths, channels)
        if not widths or any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ParameterError(
                f"normal is {normal!r}, latent {latent!r}, mappings {mappings!r}, widths {widths!r} and channels "
                f"{channels!r}, but all must be whole numbers, 1 or more, and one width must be there."
            )
        self.normal, self.latent, self.channels = normal, latent, channels
        self.side = 4 * 2 ** (len(widths) - 1)
        self.mapping = nn.ModuleDict(
            {f"fc{n}": nn.Linear(latent if n else normal, latent) for n in range(mappings)}
        )
        sides = [4 * 2**n for n in range(len(widths))]
        self.synthesis = nn.ModuleDict(
            {
                f"b{side}": StyleBlock(latent, inputs, outputs, channels, side)
                for side, inputs, outputs in zip(sides, [0, *widths], widths, strict=False)
            }
        )
        self.register_buffer("mean", torch.zeros(latent), persistent=False)
        self.register_buffer("spread", torch.ones(()), persistent=False)

    @property
    def first_weight(self) -> Tensor:
        """The weights of the layers' styles, ``[out, latent]``, whose columns SeFa looks at; without those to images."""
        layers = [layer for layer in self.modules() if isinstance(layer, StyleLayer)]
        return torch.cat([layer.affine.weight for layer in layers])

    def map(self, z: Tensor) -> Tensor:
        """Normal numbers ``[b, normal]`` -> w, ``[b, latent]``."""
        a = pixel_norm(z)
        for layer in self.mapping.values():
            assert isinstance(layer, nn.Linear)
            weight = MAPPING_RATE / math.sqrt(layer.in_features) * layer.weight
            a = activate(F.linear(a, weight, MAPPING_RATE * layer.bias))
        return a

    @torch.no_grad()
    def standardise(self) -> None:
        """Take the mean of the mapping network's latents and their spread around it, over `DRAWS` of them."""
        w = self.map(torch.randn(DRAWS, self.normal, generator=generator(0)).to(self.mean)).double()
        self.spread = w.var(0).mean().sqrt().to(self.mean)
        self.mean = w.mean(0).to(self.mean)

    @torch.no_grad()
    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Latents ``[count, latent]`` as the network was trained on; ``random`` is of the CPU."""
        w = self.map(torch.randn(count, self.normal, generator=random).to(self.mean))
        return (w - self.mean) / self.spread

    def early(self, u: Tensor) -> Tensor:
        """Latents ``[b, latent]`` -> features ``[b, widths[1] + channels + latent, 8, 8]``.

        Of a network of 4 x 4 pixels, those of this size. Behind the features of 8 x 8 pixels come the image of this size and w, alike at all places, since later layers need
        them: where several latents are mixed, their images and their w are mixed, too.
        """
        if u.ndim != 2 or u.shape[1] != self.latent:
            raise InputError(
                f"The latents are {list(u.shape)} but this generator takes [b, {self.latent}]; "
                "use the encoder that was trained for it."
            )
        w = self.mean + self.spread * u
        first, *rest = list(self.synthesis.values())[:2]
        a, image = first(None, None, w)
        for block in rest:
            a, image = block(a, image, w)
        return torch.cat([a, image, w[..., None, None].expand(-1, -1, *a.shape[2:])], 1)

    def late(self, features: Tensor) -> Tensor:
        """What `early` made, or a mixture of several -> images ``[b, channels, side, side]`` in [0, 1]."""
        width = features.shape[1] - self.channels - self.latent
        a, image, w = features.split([width, self.channels, self.latent], 1)
        for block in list(self.synthesis.values())[2:]:
            a, image = block(a, image, w[..., 0, 0])
        return ((image + 1) / 2).clamp(0, 1)

    def forward(self, u: Tensor) -> Tensor:
        """Images, see the class."""
        return self.late(self.early(u))


def activate(a: Tensor) -> Tensor:
    """A(a), which leaves the size of normal numbers about as it was."""
    return math.sqrt(2) * F.leaky_relu(a, SLOPE)


def style_of(affine: nn.Linear, w: Tensor) -> Tensor:
    """s, ``[b, inputs]``, of latents w, ``[b, latent]``."""
    return F.linear(w, affine.weight / math.sqrt(affine.in_features), affine.bias)


def smooth(a: Tensor) -> Tensor:
    """The filter over maps ``[b, c, 2n + 1, 2n + 1]``, to the side 2n, times 4: three of four pixels were 0."""
    return F.conv2d(a, _filters(a), padding=1, groups=a.shape[1])


def double(image: Tensor) -> Tensor:
    """Images ``[b, c, n, n]`` -> ``[b, c, 2n, 2n]``: zeros in between, then the filter times 4."""
    return F.conv_transpose2d(image, _filters(image), stride=2, padding=1, groups=image.shape[1])


def _filters(a: Tensor) -> Tensor:
    """[1, 3, 3, 1] / 8 along rows and columns, times 4, for every channel: ``[c, 1, 4, 4]``."""
    # computed where the maps lie: numbers from the CPU would make it wait in every layer
    row = 1 - (torch.arange(4, device=a.device, dtype=a.dtype) - 1.5).abs() / 2
    return (row[:, None] * row).expand(a.shape[1], 1, 4, 4)


def is_style(saved: Any) -> bool:
    """Whether what was in a file names the parts of a StyleGAN, of whichever kind."""
    names = _weights(saved)
    parts = ("mapping", "synthesis", "style", "convs", "to_rgbs")
    return isinstance(names, dict) and any(str(name).split(".")[0] in parts for name in names)


def style_generator_of(saved: Any, path: Path, mend: str) -> StyleGenerator:
    """A generator of what was in a file, on the CPU, in eval mode, its latents standardised.

    It is either a ``state_dict()`` of NVIDIA's code for PyTorch, or one of ``rosinality/stylegan2-pytorch``; or
    a dictionary with one at ``g_ema`` or ``G_ema``, as the latter's files are. Sizes are those of the tensors. Where
    no noise lies beside the weights, as in the older of these files, it is drawn once and for all.

    Parameters
    ----------
    path, mend : the file, and what to give instead, for the error.

    Raises
    ------
    DataError
        If it does not hold this generator: one of classes, with another filter, or tensors that are missing, unknown,
        twice there, of sizes that do not fit each other, not float32, not finite, or that make all latents alike.
    """
    saved = _weights(saved)
    if not tensors_by_name(saved):
        raise DataError(f"{path} does not hold tensors by name; {mend}.")
    weights: dict[str, Tensor] = {}
    for old, weight in saved.items():
        name = _name(str(old))
        if name.endswith((".resample_filter", ".kernel")):
            if not _is_the_filter(weight):
                raise DataError(
                    f"{path} is of a generator whose {old} is not the filter [1, 3, 3, 1]; {mend}."
                )
        elif name in weights:
            raise DataError(f"{path} holds {name} twice, by the names of both codes; {mend}.")
        elif name != "mapping.w_avg":  # about the mean that `standardise` takes
            weights[name] = _without_ones(name, weight)
    if "mapping.embed.weight" in weights:
        raise DataError(f"{path} is of a generator that is told a class; {mend}.")
    with torch.device("meta"):  # costs no memory
        network = _of_sizes(weights)
    expected = network.state_dict()
    noises = [name for name in expected if name.endswith(".noise_const")]
    if not any(name in weights for name in noises):
        random = generator(0, _NOISES)
        weights |= {name: torch.randn(expected[name].shape, generator=random) for name in noises}
    if fault := fault_of(weights, expected):
        raise DataError(
            f"{path} is not a generator of StyleGAN2, by the names of NVIDIA's code: {fault}; {mend}."
        )
    network.load_state_dict(weights, assign=True)
    network.mean, network.spread = torch.zeros(network.latent), torch.ones(())  # no longer on "meta"
    network.standardise()
    if not (network.mean.isfinite().all() and 0 < network.spread < math.inf):
        raise DataError(f"{path} holds a mapping network whose latents are all alike or not finite; {mend}.")
    return network.eval()


def _weights(saved: Any) -> Any:
    """The averaged generator, where a file has several networks."""
    for key in ("g_ema", "G_ema"):
        if isinstance(saved, dict) and key in saved:
            return saved[key]
    return saved


# rosinality's names, and ours; the numbers of sizes and layers are worked out by `_name`
_RENAMED = {
    "conv.modulation.": "affine.",
    "conv.weight": "weight",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
}


def _name(name: str) -> str:
    """NVIDIA's name of a tensor, for a name by either code."""
    first, _, rest = name.partition(".")
    if name == "input.input":
        return "synthesis.b4.const"
    if first == "style" and (match := re.fullmatch(r"([1-9][0-9]?)(\..*)", rest)):
        return f"mapping.fc{int(match[1]) - 1}{match[2]}"  # the first is the norm, which has no weights
    if first == "noises" and (match := re.fullmatch(r"noise_([0-9]{1,2})", rest)):
        number = int(match[1]) + 1  # as if the size 4 x 4 had two
        return f"synthesis.b{4 * 2 ** (number // 2)}.conv{number % 2}.noise_const"
    place = ""
    if first in ("conv1", "to_rgb1"):
        place = "b4.conv1" if first == "conv1" else "b4.torgb"
    elif first in ("convs", "to_rgbs") and (match := re.fullmatch(r"([0-9]{1,2})\.(.*)", rest)):
        number, rest = int(match[1]), match[2]
        layer = f"conv{number % 2}" if first == "convs" else "torgb"
        place = f"b{8 * 2 ** (number // 2 if first == 'convs' else number)}.{layer}"
    if not place:
        return name
    for old, new in _RENAMED.items():
        if rest.startswith(old):
            rest = new + rest.removeprefix(old)
            break
    return f"synthesis.{place}.{rest}"


_AXES = {"const": 3, "noise_const": 2, "noise_strength": 0, "bias": 1, "weight": 4}


def _without_ones(name: str, weight: Tensor) -> Tensor:
    """A tensor without the axes of length 1 that rosinality's code gives it, where NVIDIA's has none."""
    wanted = _AXES.get(name.rpartition(".")[2], weight.ndim)
    for axis in (0, -1):
        while weight.ndim > wanted and weight.shape[axis] == 1:
            weight = weight.squeeze(axis)
    return weight


def _is_the_filter(weight: Tensor) -> bool:
    """Whether it is [1, 3, 3, 1] along rows and columns, at whatever gain."""
    if weight.shape != (4, 4) or not weight.is_floating_point():
        return False
    weight = weight.double()  # a wrong type is told with the weights'
    return torch.allclose(weight / weight.sum(), _filters(weight[None, None])[0, 0] / 4, atol=1e-6)


def _of_sizes(weights: dict[str, Tensor]) -> StyleGenerator:
    """The network of the sizes that some tensors have; those that are missing count as 1."""

    def size(name: str, axis: int) -> int:
        weight = weights.get(name, torch.empty(()))
        return max(1, weight.shape[axis]) if weight.ndim > axis else 1

    sides = [4 * 2**n for n in range(count_parts(weights, "synthesis", lambda n: f"b{4 * 2**n}"))]
    return StyleGenerator(
        normal=size("mapping.fc0.weight", 1),
        latent=size("mapping.fc0.weight", 0),
        mappings=count_parts(weights, "mapping", lambda n: f"fc{n}", most=64),
        widths=[size(f"synthesis.b{side}.conv1.weight", 0) for side in sides],
        channels=size("synthesis.b4.torgb.weight", 0),
    )
