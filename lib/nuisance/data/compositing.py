"""An object on another background, as Waterbirds puts birds on places."""

import torch
from PIL import Image, ImageOps
from torch import Tensor

from nuisance.errors import InputError


def composite(foreground: Tensor, mask: Tensor, background: Tensor) -> Tensor:
    """``foreground * mask + background * (1 - mask)``, as bytes.

    Each product is rounded before they are added, as in the generator of Waterbirds (``np.around`` twice in
    Sagawa et al.'s code): an object on black and an empty background then add up to exactly this image.

    Parameters
    ----------
    foreground, background : uint8 ``[3, h, w]`` or ``[n, 3, h, w]``.
    mask : float ``[h, w]`` or ``[n, h, w]`` in [0, 1], 1 where the object is; soft edges are kept.

    Returns
    -------
    uint8, the shape of ``foreground``.

    Raises
    ------
    InputError
        If the sizes differ, an image is not bytes, or the mask leaves [0, 1].
    """
    for name, image in (("foreground", foreground), ("background", background)):
        if image.dtype != torch.uint8:
            raise InputError(f"The {name} is {image.dtype} but must be bytes, uint8 [3, h, w].")
    if background.shape != foreground.shape:
        raise InputError(
            f"The foreground is {list(foreground.shape)} but the background {list(background.shape)}; "
            "bring it to the same size, with fit_background for instance."
        )
    if mask.shape != foreground.shape[:-3] + foreground.shape[-2:]:
        raise InputError(
            f"The foreground is {list(foreground.shape)} but the mask {list(mask.shape)}; "
            "give a mask of the same height and width."
        )
    if not mask.is_floating_point() or not ((mask >= 0) & (mask <= 1)).all():
        raise InputError("The mask must be floats between 0 and 1; divide the bytes of a mask by 255.")
    alpha = mask.unsqueeze(-3)
    # Two halves rounded up may make 256, which a byte would turn to black.
    return ((foreground * alpha).round() + (background * (1 - alpha)).round()).clamp_(max=255).byte()


def fit_background(background: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A background of exactly ``size`` (width, height): cropped about its centre to that shape, then resized.

    A smaller background is enlarged. Waterbirds crops at whole pixels and enlarges in a step of its own;
    here both are one resampling (Lanczos, as there), which moves the crop by less than a pixel.

    Raises
    ------
    InputError
        If the size is not positive.
    """
    if min(size) < 1:
        raise InputError(
            f"A background of size {size} has no pixel; give a width and a height of at least 1."
        )
    return ImageOps.fit(background, size, Image.Resampling.LANCZOS)
