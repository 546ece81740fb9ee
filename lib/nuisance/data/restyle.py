"""Same content, new style: what ImageNet-R is to ImageNet, at any size.

ImageNet-R (Hendrycks et al. 2021, "The Many Faces of Robustness") shows classes of ImageNet as drawings,
sculptures, embroidery and other renditions. Such renditions of small images do not exist, so each image
is restyled by a formula. Widths and periods are parts of the shorter side: a garment of 28 pixels
and a photo of 224 get the same look.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from nuisance.errors import InputError

CHUNK = 128
"""Images that are restyled at once: as floats a whole data set of photos would not fit in memory."""


def negative(x: Tensor) -> Tensor:
    """Bright where it was dark: ``1 - x``."""
    return 1 - x


def sketch(x: Tensor) -> Tensor:
    """Dark contours on white: the gradient's magnitude, over its largest value in the image, inverted."""
    x = _blur(x)
    down, right = _slope(x, (1, 0)), _slope(x, (0, 1))
    strength = (down**2 + right**2).sum(1, keepdim=True).sqrt()
    strongest = strength.amax((1, 2, 3), keepdim=True).clamp_min(1 / 255)
    return (1 - (strength / strongest).sqrt()).expand_as(x)  # the root keeps the weak contours visible


def poster(x: Tensor) -> Tensor:
    """Three flat levels of each channel, after a blur."""
    return (_blur(x) * 3).floor().clamp(max=2) / 2


def relief(x: Tensor) -> Tensor:
    """Embossed, with light from the upper left: 0.5 plus the grey image's slope along the diagonal, twofold."""
    return (0.5 + 2 * _slope(_blur(x).mean(1, keepdim=True), (1, 1))).clamp(0, 1).expand_as(x)


def canvas(x: Tensor) -> Tensor:
    """Painted on coarse cloth: darkened by up to a half in a woven pattern of seven threads a side."""
    rows, columns = (torch.arange(length, device=x.device) + 0.5 for length in x.shape[-2:])
    turn = 2 * math.pi * 7 / _side(x)
    weave = torch.outer(torch.sin(turn * rows), torch.sin(turn * columns))
    return x * (0.75 + 0.25 * weave.sign())


_STYLES = (negative, sketch, poster, relief, canvas)
STYLES = tuple(style.__name__ for style in _STYLES)


def restyle(pixels: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Give each image one of `STYLES`, drawn uniformly.

    Parameters
    ----------
    pixels : uint8 ``[n, c, h, w]`` with one or three channels.
    generator : of the CPU, so that a seed means the same styles on every device.

    Returns
    -------
    The restyled images, uint8 ``[n, c, h, w]``, and the index of each one's style, int64 ``[n]``.

    Raises
    ------
    InputError
        If the pixels are not such bytes.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise InputError(
            f"Pixels are {pixels.dtype} {list(pixels.shape)} but must be uint8 [n, c, h, w] with 1 or 3 channels; "
            "restyle before images are scaled."
        )
    drawn = torch.randint(len(STYLES), (len(pixels),), generator=generator).to(pixels.device)
    restyled = torch.empty_like(pixels)
    for index in drawn.unique().tolist():
        for chunk in torch.where(drawn == index)[0].split(CHUNK):
            styled = _STYLES[index](pixels[chunk].float() / 255)
            restyled[chunk] = (styled * 255).round().byte()
    return restyled, drawn


def _side(x: Tensor) -> int:
    """The shorter side in pixels."""
    return min(x.shape[-2:])


def _blur(x: Tensor) -> Tensor:
    """A Gaussian blur over 1/28 of the shorter side, two standard deviations each way: nothing at 28 pixels."""
    side = _side(x)
    width = 2 * round(side / 56) + 1
    return gaussian_blur(x, [width, width], [side / 112, side / 112])


def _slope(x: Tensor, direction: tuple[int, int]) -> Tensor:
    """What each pixel's neighbours in a direction (rows, columns) differ by, 1/56 of the shorter side on and back."""
    step = max(1, round(_side(x) / 56))
    height, width = x.shape[-2:]
    padded = F.pad(x, (step,) * 4, mode="replicate")

    def shifted(sign: int) -> Tensor:
        top, left = (step + sign * step * along for along in direction)
        return padded[..., top : top + height, left : left + width]

    return shifted(1) - shifted(-1)
