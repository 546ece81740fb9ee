"""The nuisance transformations of the study of invariance transfer, batched (`sec-invariance-transfer`).

Zhou et al. (2022, arXiv 2203.09739) transform each image of Kuzushiji-49 in one of three ways, drawn from the same
distribution for every class, so that what a network learns of them on the head is true of the tail as well. Of each
transformation there is a pure function whose parameters are given, and one that draws them as published.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nuisance.errors import InputError, ParameterError


class Transform(Protocol):
    """Transforms each image by parameters of its own, drawn anew."""

    def __call__(self, pixels: Tensor, *, generator: torch.Generator) -> Tensor:
        """The transformed images, uint8 ``[n, 1, h, w]``."""


def rotate_by(pixels: Tensor, angles: Tensor) -> Tensor:
    """Turn each image about its centre, bicubic, with zeros where nothing was.

    The released code calls Pillow, whose bicubic kernel is sharper (a = -1; PyTorch has -0.75), which rounds down, and
    which repeats the edge where PyTorch reads zeros. Away from the edge, 200 turned garments differ by 1.4 levels
    on average and by at most 17; at right angles they do not differ.

    Parameters
    ----------
    pixels : uint8 ``[n, 1, h, w]``.
    angles : floats ``[n]``, in degrees, counter-clockwise.

    Returns
    -------
    uint8 ``[n, 1, h, w]``, rounded, and cut off at 0 and 255.

    Raises
    ------
    InputError
        If pixels are not such bytes, or there is not one angle an image.
    """
    _require_one_each(pixels, angles, "angles")
    angles = angles.to(pixels.device).float().deg2rad()
    cos, sin = angles.cos(), angles.sin()
    aspect = pixels.shape[2] / pixels.shape[3]  # coordinates go from -1 to 1 both ways, in no square too
    nothing = torch.zeros_like(cos)
    turn = torch.stack([cos, -sin * aspect, nothing, sin / aspect, cos, nothing], 1).view(-1, 2, 3)
    grid = F.affine_grid(turn, list(pixels.shape), align_corners=False)
    turned = F.grid_sample(pixels.float(), grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return turned.round_().clamp_(0, 255).byte()


def fill_background(pixels: Tensor, levels: Tensor) -> Tensor:
    """Give every pixel that is exactly 0 the image's level.

    Parameters
    ----------
    pixels : uint8 ``[n, 1, h, w]``.
    levels : integers ``[n]`` from 0 to 255.

    Raises
    ------
    InputError
        If pixels are not such bytes, or there is not one level an image.
    ParameterError
        If a level is no byte.
    """
    _require_one_each(pixels, levels, "levels")
    if ((levels < 0) | (levels > 255)).any():
        raise ParameterError("A background's level is not from 0 to 255; give levels that a pixel can have.")
    return torch.where(pixels == 0, levels.to(pixels.device).byte().view(-1, 1, 1, 1), pixels)


def dilate_by(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Give every pixel the largest value in a square window, of which what is outside the image is no part.

    As OpenCV, which the released code calls: a window of ``k`` begins ``k // 2`` above and to the left of the pixel.
    So with an even ``k`` bright shapes grow by one pixel more to the lower right.

    Parameters
    ----------
    pixels : uint8 ``[n, 1, h, w]``.
    kernels : integers ``[n]``, the side of each image's window in pixels; 1 changes nothing.

    Raises
    ------
    InputError
        If pixels are not such bytes, or there is not one kernel an image.
    ParameterError
        If a kernel is below 1.
    """
    _require_one_each(pixels, kernels, "kernels")
    if (kernels < 1).any():
        raise ParameterError("A kernel is below 1; give each image a window of at least one pixel.")
    dilated = torch.empty_like(pixels)
    for side in kernels.unique().tolist():
        chosen = torch.where(kernels == side)[0].to(pixels.device)
        before, after = side // 2, (side - 1) // 2
        # No byte is below 0, so that the zeros around the image never win.
        padded = F.pad(pixels[chosen].float(), (before, after, before, after))
        dilated[chosen] = F.max_pool2d(padded, side, stride=1).byte()
    return dilated


def erode_by(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Give every pixel the smallest value in a square window; all else as `dilate_by`, the window too."""
    _require_one_each(pixels, kernels, "kernels")
    return 255 - dilate_by(255 - pixels, kernels)


def rotate(pixels: Tensor, *, generator: torch.Generator) -> Tensor:
    """Turn each image by an angle drawn from U(-180, 180) degrees, as `rotate_by`.

    Parameters
    ----------
    pixels : uint8 ``[n, 1, h, w]``.
    generator : of the CPU, so that a seed means the same angles on every device.
    """
    return rotate_by(pixels, torch.rand(len(pixels), generator=generator) * 360 - 180)


def change_background(pixels: Tensor, *, generator: torch.Generator) -> Tensor:
    """Set the pixels that are 0 to a level drawn for each image from U{0, ..., 99}, as `fill_background`.

    Made for characters on black. Garments of Fashion-MNIST have exact zeros inside as well (dark cloth, gaps
    between sleeves), which change with the background.

    Parameters
    ----------
    pixels : uint8 ``[n, 1, h, w]``.
    generator : of the CPU, so that a seed means the same levels on every device.
    """
    return fill_background(pixels, torch.randint(100, (len(pixels),), generator=generator))


def dilate_or_erode(pixels: Tensor, *, generator: torch.Generator) -> Tensor:
    """Dilate with probability 0.6 by a kernel of 2, 3 or 4, else erode by 1 or 2, as `dilate_by` and `erode_by`.

    Erosion by 1 changes nothing, so a fifth of the images stay as they are; the released code has it so.

    Parameters
    ----------
    pixels : uint8 ``[n, 1, h, w]``.
    generator : of the CPU, so that a seed means the same kernels on every device.
    """
    n = len(pixels)
    dilates = torch.rand(n, generator=generator) < 0.6
    growing = torch.randint(2, 5, (n,), generator=generator).where(dilates, 1)
    shrinking = torch.randint(1, 3, (n,), generator=generator).where(~dilates, 1)
    return erode_by(dilate_by(pixels, growing), shrinking)  # at least one of the two kernels is 1: no change


TRANSFORMS: dict[str, Transform] = {
    "rotation": rotate,
    "background": change_background,
    "dilation": dilate_or_erode,
}
"""The study's three transformations by name."""


def _require_one_each(pixels: Tensor, values: Tensor, name: str) -> None:
    """Refuse what is no batch of grey bytes, or parameters that are not one an image."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 1:
        raise InputError(
            f"Pixels are {pixels.dtype} {list(pixels.shape)} but must be uint8 [n, 1, h, w]; "
            "transform grey images before they are scaled."
        )
    if values.shape != (len(pixels),):
        raise InputError(f"{len(pixels)} images but {name} {list(values.shape)}; give one an image, [n].")
