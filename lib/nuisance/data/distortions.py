"""The distortions that classifiers are tested on, at five severities, batched (`sec-natural-transformation`).

The abstract of the study (Wang et al. 2021, arXiv 2105.04070) speaks of robustness to real-world distortions and names
none; which ones, how strong, and which of them are natural is ours. Natural is what the thing or the light can do
before there is a camera: pose, size, place, thickness, brightness, contrast. What lens and sensor add, blur and noise,
is not. That rule was written down before the study's runs and without regard to who gains by it: brightness and
contrast count, although in an early trial training along latent directions lost on both.

Severity 0 changes nothing; at severities 1 to 5 every image is changed by the amounts given below, in a direction
(clockwise or not, brighter or darker ...) that is drawn for it. The same seed draws the same directions, and the same
noise, at every severity.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from nuisance.data.nuisance_transforms import dilate_by, erode_by
from nuisance.errors import InputError, ParameterError

SEVERITIES = 5

Change = Callable[[Tensor, float, torch.Generator], Tensor]
"""From bytes ``[n, c, h, w]``, an amount and a CPU generator to the bytes changed by that amount."""


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """A way in which images change.

    Attributes
    ----------
    natural : whether it counts as natural, see the module.
    amounts : at severities 1 to 5.
    unit : of the amounts.
    change : what it does.
    """

    natural: bool
    amounts: tuple[float, float, float, float, float]
    unit: str
    change: Change


def rotate(pixels: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Turn by ``amount`` degrees about the centre, either way; zeros come in at the edges, as in all that moves."""
    return _one_of([partial(_affine, angle=angle) for angle in (amount, -amount)], pixels, generator)


def scale(pixels: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Make larger by the factor 1 + ``amount``, or smaller by it, about the centre."""
    return _one_of(
        [partial(_affine, scale=factor) for factor in (1 + amount, 1 / (1 + amount))], pixels, generator
    )


def shear(pixels: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Lean the columns by ``amount`` degrees, either way."""
    return _one_of([partial(_affine, shear=angle) for angle in (amount, -amount)], pixels, generator)


def translate(pixels: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Move by ``amount`` of the side, right, left, down or up; by whole pixels, so that nothing is blurred."""
    down, right = (float(round(amount * side)) for side in pixels.shape[2:])
    moves = ([right, 0.0], [-right, 0.0], [0.0, down], [0.0, -down])
    return _one_of([partial(_affine, move=move) for move in moves], pixels, generator)


def brighten(pixels: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Add ``amount`` of the full range to every pixel, or take it away; cut off at black and white."""
    step = round(255 * amount)
    return _one_of([partial(_add, step=step), partial(_add, step=-step)], pixels, generator)


def flatten(pixels: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Move every pixel by the share ``amount`` of the way to the image's mean (of its grey version): less contrast."""
    # of bytes, torchvision's would be rounded down
    return _to_bytes(tv.adjust_contrast(pixels.float() / 255, 1 - amount))


def blur(pixels: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Blur by a Gaussian with the standard deviation ``amount`` of the shorter side."""
    deviation = amount * min(pixels.shape[2:])
    window = 2 * math.ceil(3 * deviation) + 1
    return tv.gaussian_blur(pixels, [window, window], [deviation, deviation])


def add_noise(pixels: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise with the standard deviation ``amount`` of the full range to every value."""
    noise = torch.randn(pixels.shape, generator=generator)  # torchvision's takes no generator
    return _to_bytes(pixels / 255 + amount * noise.to(pixels.device))


def thicken(pixels: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Grow what is bright by ``amount`` of the shorter side (1 pixel at least), or shrink it by half as much.

    By half, rounded up, since what is thin would vanish, and no label survives that. Each channel by itself, as
    `nuisance.data.nuisance_transforms.dilate_by` and ``erode_by``.
    """
    grown = max(1, round(amount * min(pixels.shape[2:])))
    shrunk = math.ceil(grown / 2)
    return _one_of(
        [partial(_each_plane, dilate_by, side=1 + grown), partial(_each_plane, erode_by, side=1 + shrunk)],
        pixels,
        generator,
    )


DISTORTIONS: dict[str, Distortion] = {
    "rotation": Distortion(natural=True, amounts=(9, 18, 27, 36, 45), unit="degrees", change=rotate),
    "scale": Distortion(natural=True, amounts=(0.1, 0.2, 0.3, 0.4, 0.5), unit="of the size", change=scale),
    "shear": Distortion(natural=True, amounts=(8, 16, 24, 32, 40), unit="degrees", change=shear),
    "translation": Distortion(
        natural=True, amounts=(0.04, 0.08, 0.12, 0.16, 0.2), unit="of the side", change=translate
    ),
    "thickness": Distortion(
        natural=True, amounts=(1 / 28, 2 / 28, 3 / 28, 4 / 28, 5 / 28), unit="of the side", change=thicken
    ),
    "brightness": Distortion(
        natural=True, amounts=(0.1, 0.2, 0.3, 0.4, 0.5), unit="of the range", change=brighten
    ),
    "contrast": Distortion(
        natural=True, amounts=(0.15, 0.3, 0.45, 0.6, 0.75), unit="of the contrast", change=flatten
    ),
    "blur": Distortion(natural=False, amounts=(0.02, 0.04, 0.06, 0.08, 0.1), unit="of the side", change=blur),
    "noise": Distortion(
        natural=False, amounts=(0.04, 0.08, 0.12, 0.16, 0.2), unit="of the range", change=add_noise
    ),
}
"""All distortions by name; the natural ones first."""


def distort(pixels: Tensor, name: str, severity: int, *, generator: torch.Generator) -> Tensor:
    """The images, distorted.

    Parameters
    ----------
    pixels : uint8 ``[n, c, h, w]``, c being 1 or 3.
    name : one of `DISTORTIONS`.
    severity : from 0, which changes nothing, to 5.
    generator : of the CPU, so that a seed means the same on every device.

    Returns
    -------
    uint8 ``[n, c, h, w]``, on the images' device.

    Raises
    ------
    InputError
        If pixels are not such bytes.
    ParameterError
        If there is no such distortion or severity.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise InputError(
            f"Pixels are {pixels.dtype} {list(pixels.shape)} but must be uint8 [n, 1 or 3, h, w]; "
            "distort images before they are scaled."
        )
    if name not in DISTORTIONS:
        raise ParameterError(f"There is no distortion {name!r}; take one of {', '.join(DISTORTIONS)}.")
    if severity not in range(SEVERITIES + 1):
        raise ParameterError(
            f"severity is {severity} but must be one of 0 (unchanged), 1, ..., {SEVERITIES}."
        )
    if severity == 0:
        return pixels
    distortion = DISTORTIONS[name]
    return distortion.change(pixels, distortion.amounts[severity - 1], generator)


def _one_of(ways: list[Callable[[Tensor], Tensor]], pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Change each image in a way drawn for it; given a batch, torchvision does the same to all its images."""
    drawn = torch.randint(len(ways), (len(pixels),), generator=generator)
    changed = torch.empty_like(pixels)
    for way, change in enumerate(ways):
        chosen = (drawn == way).nonzero().flatten().to(pixels.device)
        changed[chosen] = change(pixels[chosen])
    return changed


def _add(pixels: Tensor, *, step: int) -> Tensor:
    return (pixels.int() + step).clamp_(0, 255).byte()


def _each_plane(by: Callable[[Tensor, Tensor], Tensor], pixels: Tensor, *, side: int) -> Tensor:
    planes = pixels.flatten(0, 1)[:, None]
    return by(planes, torch.full((len(planes),), side)).view_as(pixels)


def _affine(
    pixels: Tensor,
    *,
    angle: float = 0.0,
    move: Sequence[float] = (0.0, 0.0),
    scale: float = 1.0,
    shear: float = 0.0,
) -> Tensor:
    return tv.affine(pixels, angle, list(move), scale, [shear, 0.0], interpolation=InterpolationMode.BILINEAR)


def _to_bytes(images: Tensor) -> Tensor:
    return (images * 255).round_().clamp_(0, 255).byte()
