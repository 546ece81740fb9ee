"""Colored MNIST: digits whose colour gives them away in training and says nothing in testing.

Kim et al. (2019), section 4. Every digit has a mean colour. Each training image draws its colour
around the mean of its digit, each unbiased image around a mean that is drawn at random; the noise
has variance ``color_variance`` in each channel on the scale [0, 1] (a variance: its square root
is the standard deviation). The ten official mean colours were never released as numbers, so ours,
``MEAN_COLORS``, are those of a third-party colouriser whose order of hues looks the same.
"""

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nuisance.data.embedded import checksums, load_embedded
from nuisance.data.idx import read_idx
from nuisance.data.images import Images
from nuisance.errors import DataError
from nuisance.losses import IGNORED
from nuisance.models.colored_mnist import BINS

Paint = Literal["flat", "multiply"]

MEAN_COLORS = (
    torch.tensor(
        [
            [220, 20, 60],
            [0, 128, 128],
            [253, 233, 16],
            [0, 149, 182],
            [237, 145, 33],
            [145, 30, 188],
            [70, 240, 240],
            [250, 197, 187],
            [210, 245, 60],
            [128, 0, 0],
        ]
    )
    / 255
)
"""Mean colour of the digits 0 to 9, ``[10, 3]`` in [0, 1]."""


def load_digits(dataset: str, root: Path) -> dict[str, Images]:
    """Grey digits by split: train, validation, test.

    Parameters
    ----------
    dataset : ``"mnist10k"``, the embedded 8,000 / 1,000 / 1,000 digits; or ``"mnist"``, MNIST
        itself, whose 60,000 training digits are split into the first 55,000 for training and the
        last 5,000 for validation, with the official 10,000 for testing.
    root : folder of full data sets; ``mnist`` is read from ``root/MNIST/raw`` (gzipped or not) and
        downloaded to there by torchvision where it is missing.

    Raises
    ------
    DataError
        If files are missing and cannot be downloaded, or are damaged.
    """
    if dataset == "mnist10k":
        return load_embedded("mnist10k")
    images, labels = _official_mnist(root, "train")
    test_images, test_labels = _official_mnist(root, "t10k")
    return {
        "train": Images(images[:-5_000], labels[:-5_000]),
        "validation": Images(images[-5_000:], labels[-5_000:]),
        "test": Images(test_images, test_labels),
    }


def _official_mnist(root: Path, split: str) -> tuple[Tensor, Tensor]:
    images, labels = (torch.from_numpy(read_idx(path).copy()) for path in _mnist_files(root, split))
    if images.shape != (len(labels), 28, 28) or labels.max() > 9:
        raise DataError(
            f"The {split} files in {root}/MNIST/raw are not MNIST's: images {list(images.shape)}, labels "
            f"{list(labels.shape)} up to {labels.max()}; delete them to have them downloaded again."
        )
    return images.unsqueeze(1), labels.long()


def _mnist_files(root: Path, split: str) -> list[Path]:
    """The files of images and of labels, gzipped or not; downloaded if they are missing."""
    folder = root / "MNIST" / "raw"
    paths = []
    for name in (f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"):
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not found:
            _download_mnist(root)
        paths.append(found[0] if found else folder / name)
    return paths


def _download_mnist(root: Path) -> None:
    from torchvision.datasets import MNIST  # imported here: it costs a second, and few runs download

    try:
        MNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"MNIST is not in {root}/MNIST/raw and could not be downloaded ({error}); put its four "
            "IDX files there, or name the folder that has them with the parameter data_root."
        ) from error


def fingerprint(dataset: str, root: Path) -> dict[str, str]:
    """SHA-256 of the files that `load_digits` reads, by name."""
    if dataset == "mnist10k":
        return {name: digest for name, digest in checksums().items() if name == "mnist10k.npz"}
    files = [path for split in ("train", "t10k") for path in _mnist_files(root, split)]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def halve(digits: Images) -> Images:
    """The same images at half the side, every pixel the mean of four: ``[n, c, h, w] -> [.., h/2, w/2]``."""
    pooled = torch.nn.functional.avg_pool2d(digits.pixels.float(), 2).round().byte()
    return Images(pooled, digits.labels, digits.attributes)


def draw_colors(labels: Tensor, color_variance: float, *, biased: bool, generator: torch.Generator) -> Tensor:
    """A colour for every image, as bytes ``[n, 3]``.

    Drawn on the CPU, so that a seed means the same colours on every device. ``mean_color + N(0, color_variance)`` in each channel, clipped to [0, 1]; the mean colour is that of
    the image's digit if ``biased``, else that of a digit drawn uniformly and independently.
    """
    digits = labels if biased else torch.randint(0, 10, labels.shape, generator=generator)
    noise = torch.randn((len(labels), 3), generator=generator) * color_variance**0.5
    return ((MEAN_COLORS[digits] + noise).clamp(0, 1) * 255).round().byte()


def with_colors(digits: Images, color_variance: float, *, biased: bool, generator: torch.Generator) -> Images:
    """The digits with the attribute ``color``, drawn by `draw_colors`."""
    colors = draw_colors(digits.labels.cpu(), color_variance, biased=biased, generator=generator)
    return digits.with_attributes(color=colors.to(digits.labels.device))


def paint(digits: Images, how: Paint = "flat") -> Tensor:
    """Colour images as bytes, ``[n, 3, h, w]``, on black.

    ``how`` is ``"flat"``: every pixel of the stroke (grey level above zero) has the image's colour;
    or ``"multiply"``: grey level times colour, so that edges are darker. The paper does not say which;
    in a flat stroke every pixel tells the colour equally, in a multiplied one edges fall into lower bins.
    """
    colors = digits.attributes["color"][:, :, None, None]
    if how == "flat":
        return (digits.pixels > 0) * colors
    return (digits.pixels.int() * colors.int()).add_(127).floor_divide_(255).byte()


def color_bins(painted: Tensor) -> Tensor:
    """What the bias net predicts: the colour's bin at every second position.

    As in the authors' released code: taken at half the resolution by nearest neighbour, ``BINS`` equal bins a
    channel; a channel that is exactly zero counts as background, even inside a stroke.

    Parameters
    ----------
    painted : bytes ``[n, 3, h, w]``.

    Returns
    -------
    int64 ``[n, 3, h/2, w/2]`` from 0 to 7, or ``IGNORED``.
    """
    coarse = painted[:, :, ::2, ::2]
    return (coarse // (256 // BINS)).long().masked_fill_(coarse == 0, IGNORED)


def to_gray(images: Tensor) -> Tensor:
    """The three channels replaced by their luminance (ITU-R 601), ``[n, 3, h, w]`` floats."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).expand_as(images)
