"""A pretrained generator for the full scale of chapter `sec-natural-transformation`: progressive growing, fully grown.

Karras et al. (2018, arXiv 1710.10196). With N(a) = a / sqrt(mean_j a_j^2 + 1e-8), the mean over the channels j of a
pixel, and weights W that are scaled at run time by the constant of He et al. (2015), s = sqrt(2 / inputs), a layer is

    a' = N(leaky_relu(s (W a + bias))),     of slope 0.2.

The latent, itself normalised by N, is turned by a linear layer into 4 x 4 pixels, and one 3 x 3 convolution follows.
Then the side is doubled again and again by repeating pixels, with two convolutions each time. A last 1 x 1 convolution,
scaled but neither rectified nor normalised, makes the image, on the scale [-1, 1].

The weights are those of torch.hub's ``facebookresearch/pytorch_GAN_zoo:hub``, entry ``PGAN``; its names of tensors are
used here. s multiplies the bias as well, as in the code that the weights come from; the paper tells of the weights alone.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.errors import DataError, InputError, ParameterError
from nuisance.models.weights import count_parts, fault_of, tensors_by_name

SLOPE = 0.2
EPSILON = 1e-8


def pixel_norm(a: Tensor) -> Tensor:
    """N(a), features ``[b, c, ...]`` divided by their root mean square over the channels (section 4.2)."""
    return a * (a.square().mean(1, keepdim=True) + EPSILON).rsqrt()


def he_constant(weight: Tensor) -> float:
    """s, the square root of 2 / inputs, for weights ``[out, ...]`` (section 4.1)."""
    return math.sqrt(2 / weight[0].numel())


class EqualisedLinear(nn.Linear):
    """s (W a + bias)."""

    def forward(self, a: Tensor) -> Tensor:
        """``[b, in]`` -> ``[b, out]``."""
        return he_constant(self.weight) * super().forward(a)


class EqualisedConv2d(nn.Conv2d):
    """s (W a + bias), W a convolution."""

    def forward(self, a: Tensor) -> Tensor:
        """``[b, in, h, w]`` -> ``[b, out, h, w]``."""
        return he_constant(self.weight) * super().forward(a)


class ProgressiveGenerator(nn.Module):
    """Latents ``[b, latent]`` -> images ``[b, channels, side, side]`` in [0, 1].

    The length of a latent makes no difference, since it is normalised: an encoder can find its direction alone. What
    the network draws outside [0, 1] is cut off, and has no gradient there.

    Parameters
    ----------
    latent : d, numbers in a latent.
    widths : channels at 4 x 4 pixels, at 8 x 8, at 16 x 16 and so on up to ``side``.
    channels : of the images.

    Raises
    ------
    ParameterError
        If a number is not a whole positive one, or there is no width.
    InputError
        If the latents have another size.
    """

    def __init__(self, *, latent: int, widths: Sequence[int], channels: int = 3) -> None:
        super().__init__()
        if not widths or any(not isinstance(size, int) or size < 1 for size in (latent, *widths, channels)):
            raise ParameterError(
                f"latent is {latent!r}, widths {widths!r} and channels {channels!r}, but all must be whole numbers, "
                "1 or more, and one width must be there."
            )
        self.latent, self.side = latent, 4 * 2 ** (len(widths) - 1)
        self.formatLayer = EqualisedLinear(latent, 16 * widths[0])
        self.groupScale0 = nn.ModuleList([EqualisedConv2d(widths[0], widths[0], 3, padding=1)])
        self.scaleLayers = nn.ModuleList(
            nn.ModuleList(
                [EqualisedConv2d(before, after, 3, padding=1), EqualisedConv2d(after, after, 3, padding=1)]
            )
            for before, after in pairwise(widths)
        )
        # only the last is used: the others drew the smaller images that the training began with, and are in the file
        self.toRGBLayers = nn.ModuleList(EqualisedConv2d(width, channels, 1) for width in widths)

    @property
    def first_weight(self) -> Tensor:
        """The weights that first consume a latent, ``[out, latent]``, not yet scaled; SeFa looks at their columns."""
        return self.formatLayer.weight

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Latents ``[count, latent]``, normal, on the CPU."""
        return torch.randn(count, self.latent, generator=random)

    def early(self, w: Tensor) -> Tensor:
        """Latents ``[b, latent]`` -> features behind the first doubling, ``[b, widths[1], 8, 8]``.

        Of a network of 4 x 4 pixels, those of this size.
        """
        if w.ndim != 2 or w.shape[1] != self.latent:
            raise InputError(
                f"The latents are {list(w.shape)} but this generator takes [b, {self.latent}]; "
                "use the encoder that was trained for it."
            )
        a = self.formatLayer(pixel_norm(w)).unflatten(1, (-1, 4, 4))
        return _grow(_convolve(_activate(a), self.groupScale0), self.scaleLayers[:1])

    def late(self, features: Tensor) -> Tensor:
        """What `early` made, or a mixture of several -> images ``[b, channels, side, side]`` in [0, 1]."""
        image = self.toRGBLayers[-1](_grow(features, self.scaleLayers[1:]))
        return ((image + 1) / 2).clamp(0, 1)

    def forward(self, w: Tensor) -> Tensor:
        """Images, see the class."""
        return self.late(self.early(w))


def _activate(a: Tensor) -> Tensor:
    return pixel_norm(F.leaky_relu(a, SLOPE))


def _convolve(a: Tensor, layers: Iterable[nn.Module]) -> Tensor:
    for layer in layers:
        a = _activate(layer(a))
    return a


def _grow(a: Tensor, stages: Iterable[nn.Module]) -> Tensor:
    """Double the side at every stage, each a list of layers."""
    for layers in stages:
        assert isinstance(layers, nn.ModuleList)
        a = _convolve(F.interpolate(a, scale_factor=2), layers)
    return a


def progressive_generator_of(saved: Any, path: Path, mend: str) -> ProgressiveGenerator:
    """A fully grown generator of what was in a file, on the CPU, in eval mode.

    It is either what the hub's ``PGAN`` downloads or the bare weights of its generator, a ``state_dict()``. Of the
    hub's file the running average of the weights (``avgG``) is taken, with which the paper draws its images,
    else ``netG``. Sizes are those of the tensors.

    Parameters
    ----------
    path, mend : the file, and what to give instead, for the error.

    Raises
    ------
    DataError
        If it does not hold this generator: other settings, or tensors that are missing, unknown, of sizes that do not
        fit each other, not float32 or not finite.
    """
    if isinstance(saved, dict) and "netG" in saved:
        stated = getattr(saved.get("config"), "__dict__", {})
        for name, fitting in _FITTING.items():
            if name in stated and stated[name] not in fitting:
                raise DataError(f"{path} is of a generator whose {name} is {stated[name]!r}; {mend}.")
        saved = saved.get("avgG", saved["netG"])
    if not tensors_by_name(saved):
        raise DataError(f"{path} does not hold tensors by name; {mend}.")
    # the layers lay in wrappers, which some of the release's versions name and others do not
    weights = {str(name).replace(".module.", "."): weight for name, weight in saved.items()}
    with torch.device("meta"):  # costs no memory
        network = _of_sizes(weights)
    if fault := fault_of(weights, network.state_dict()):
        raise DataError(f"{path} is not a generator of progressive growing: {fault}; {mend}.")
    network.load_state_dict(weights, assign=True)
    return network.eval()


# what the settings of the hub's file must be, where they are stated, for the network above to be theirs
_FITTING: dict[str, tuple[object, ...]] = {
    "alpha": (0,),  # above 0 while a new stage is being blended in
    "categoryVectorDim": (0,),  # classes, as part of the latent
    "equalizedlR": (True,),
    "leakyReluLeak": (SLOPE,),
    "lossCriterion": ("WGANGP", "WGANGP2", "Logistic"),  # with the others, a tanh follows
    "perChannelNormalization": (True,),
}


def _of_sizes(weights: dict[str, Tensor]) -> ProgressiveGenerator:
    """The network of the sizes that some tensors have; those that are missing count as 1."""

    def size(name: str, axis: int) -> int:
        weight = weights.get(f"{name}.weight", torch.empty(()))
        return max(1, weight.shape[axis]) if weight.ndim > axis else 1

    stages = count_parts(weights, "toRGBLayers", str)
    return ProgressiveGenerator(
        latent=size("formatLayer", 1),
        widths=[size(f"toRGBLayers.{stage}", 1) for stage in range(stages)],
        channels=size("toRGBLayers.0", 0),
    )
