"""Known and unknown images for the study of anomaly scores.

Embedded: garments of which some classes are held out. Real, read from ``data_root``: Tiny ImageNet and
ImageNet's validation images; CIFAR-10 is read by ``small_photos``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nuisance.data.embedded import load_embedded
from nuisance.data.images import Images
from nuisance.data.photos import Prepare, fingerprint_files, list_images, load_photos
from nuisance.errors import DataError, InputError, ParameterError

IMAGENET_SAMPLE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}
"""The ten WordNet ids of Imagenette, and the index of each among ImageNet's 1,000 sorted ones."""

TINY_IMAGENET_IN_CIFAR = {
    "n02123045": "tabby",
    "n02123394": "Persian cat",
    "n02124075": "Egyptian cat",
    "n02085620": "Chihuahua",
    "n02094433": "Yorkshire terrier",
    "n02099601": "golden retriever",
    "n02099712": "Labrador retriever",
    "n02106662": "German shepherd",
    "n02113799": "standard poodle",
    "n01855672": "goose",
    "n02002724": "black stork",
    "n02056570": "king penguin",
    "n02058221": "albatross",
    "n01641577": "bullfrog",
    "n01644900": "tailed frog",
    "n04285008": "sports car",
    "n03100240": "convertible",
    "n02814533": "beach wagon",
    "n03670208": "limousine",
    "n03977966": "police van",
    "n03796401": "moving van",
    "n03662601": "lifeboat",
    "n03447447": "gondola",
}
"""Classes of Tiny ImageNet that are cats, dogs, birds, frogs, automobiles, trucks or ships: known to CIFAR-10."""


def load_known_fashion(held_out: Sequence[int]) -> tuple[dict[str, Images], dict[str, Images]]:
    """Fashion-MNIST with some classes held out, as anomalies of content.

    Parameters
    ----------
    held_out : labels of the classes to hold out, 0 to 9.

    Returns
    -------
    The known images, whose ``k`` classes are relabelled 0 to ``k - 1`` in their order, and the held-out
    ones, which keep their labels; each by split (train, validation, test), with the attribute
    ``original``, Fashion-MNIST's own label.

    Raises
    ------
    ParameterError
        If a class is not one of 0 to 9 or named twice, if none is held out or fewer than two are left.
    """
    classes = range(10)
    if any(label not in classes for label in held_out) or len(set(held_out)) != len(held_out):
        raise ParameterError(f"held_out is {list(held_out)} but must name classes from 0 to 9, each once.")
    if not 1 <= len(held_out) <= 8:
        raise ParameterError(
            f"held_out names {len(held_out)} of 10 classes; hold out 1 to 8, so that 2 are known."
        )
    new_label = torch.full((10,), -1)
    remaining = [label for label in classes if label not in held_out]
    new_label[remaining] = torch.arange(len(remaining))
    known, unknown = {}, {}
    for split, images in load_embedded("fashion_mnist20k").items():
        images = images.with_attributes(original=images.labels)
        is_known = new_label[images.labels] >= 0
        part = images[is_known]
        known[split] = Images(part.pixels, new_label[part.labels], part.attributes)
        unknown[split] = images[~is_known]
    return known, unknown


def load_tiny_imagenet(data_root: Path, *, size: int = 32) -> tuple[Tensor, list[Path]]:
    """Tiny ImageNet's validation images, as anomalies for CIFAR-10, without `TINY_IMAGENET_IN_CIFAR`.

    Returns
    -------
    uint8 ``[n, 3, size, size]``, resized by Pillow's bilinear filter (which averages what it shrinks: no
    aliasing), and the files. Liang et al. (2018, ODIN) resized them to 32 pixels as well.

    Raises
    ------
    ParameterError
        If ``size`` is not positive.
    DataError
        If ``tiny-imagenet-200/val`` lacks images or annotations, or an image is broken.
    """
    if size < 1:
        raise ParameterError(f"size is {size} but must be a positive number of pixels.")

    def prepare(image: Image.Image) -> Tensor:
        resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)

    return load_photos(_tiny_imagenet(data_root), prepare)


def _tiny_imagenet(data_root: Path) -> list[Path]:
    folder = data_root / "tiny-imagenet-200" / "val"
    files = list_images(folder / "images")
    try:
        lines = (folder / "val_annotations.txt").read_text(encoding="utf-8").splitlines()
        classes = dict(line.split("\t")[:2] for line in lines if line)
        kept = [file for file in files if classes[file.name] not in TINY_IMAGENET_IN_CIFAR]
    except (OSError, ValueError, KeyError) as error:
        mend = "put the annotations of the original archive there"
        raise DataError(f"{folder / 'val_annotations.txt'} is missing or lacks an image; {mend}.") from error
    if not kept:
        raise DataError(f"{folder / 'images'} holds no class that CIFAR-10 does not have; use the whole set.")
    return kept


def tiny_imagenet_checksums(data_root: Path) -> dict[str, str]:
    """SHA-256 over the files that `load_tiny_imagenet` reads."""
    return fingerprint_files("tiny-imagenet-200", _tiny_imagenet(data_root), data_root)


def load_imagenet_sample(data_root: Path, prepare: Prepare) -> Images:
    """ImageNet's validation images, all or those of Imagenette's classes.

    Parameters
    ----------
    data_root : has ``imagenet/val/<WordNet id>/*``.
    prepare : as for `load_photos`.

    Returns
    -------
    Images with labels 0 to 999: by `IMAGENET_SAMPLE` if there are no other folders than its ten, else
    each folder's place among the 1,000 sorted ones.

    Raises
    ------
    DataError
        If the folders are neither of these, one has no image, or an image is broken.
    """
    folder = data_root / "imagenet" / "val"
    labels = _imagenet_labels(folder)
    files, file_labels = [], []
    for name, label in labels.items():
        found = list_images(folder / name)
        files += found
        file_labels += [label] * len(found)
    pixels, _ = load_photos(files, prepare)
    return Images(pixels, torch.tensor(file_labels))


def _imagenet_labels(folder: Path) -> dict[str, int]:
    """The class index of every folder of ImageNet."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if names and set(names) <= IMAGENET_SAMPLE.keys():
        return {name: IMAGENET_SAMPLE[name] for name in names}
    ranks = {name: rank for rank, name in enumerate(names)}
    if len(names) == 1_000 and IMAGENET_SAMPLE.items() <= ranks.items():
        return ranks
    raise DataError(
        f"{folder} has {len(names)} folders of classes, but ImageNet has 1,000, named by WordNet id, and the sample "
        f"some of {', '.join(IMAGENET_SAMPLE)}; sort the images into such folders."
    )


def imagenet_checksums(data_root: Path) -> dict[str, str]:
    """SHA-256 over the files that `load_imagenet_sample` reads."""
    folder = data_root / "imagenet" / "val"
    files = [path for name in _imagenet_labels(folder) for path in list_images(folder / name)]
    return fingerprint_files("imagenet-val", files, folder)


def split_in_two(n: int, first: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random permutation of ``n`` images cut after ``first``: int64 indices ``[first]`` and ``[n - first]``.

    Raises
    ------
    ParameterError
        If ``first`` is not 1 to ``n - 1``: both parts must have an image.
    """
    if not 1 <= first < n:
        raise ParameterError(f"The first part has {first} of {n} images but must have 1 to {n - 1}.")
    order = torch.randperm(n, generator=generator)
    return order[:first], order[first:]


def select_confident(confidences: Tensor, count: int) -> Tensor:
    """The images of which a reference network is surest, int64 indices ``[count]``, the surest first.

    How ImageNet-O was selected (Hendrycks et al. 2021, "Natural Adversarial Examples"): from images of unknown
    classes those on which a ResNet-50 is confident; there by a threshold and by hand, here by count.
    Where two are equal, the earlier image comes first.

    Parameters
    ----------
    confidences : ``[n]``, the reference network's largest probability of each image.

    Raises
    ------
    InputError
        If the confidences are not finite or not of that shape.
    ParameterError
        If ``count`` is not 1 to ``n``.
    """
    if confidences.ndim != 1 or not confidences.isfinite().all():
        raise InputError(
            f"Confidences {list(confidences.shape)} must be [n] and finite; give one number an image."
        )
    _check_count(count, len(confidences))
    return confidences.argsort(descending=True, stable=True)[:count]


def select_random(n: int, count: int, *, generator: torch.Generator) -> Tensor:
    """``count`` of ``n`` images drawn without replacement, int64 ``[count]``: the control of `select_confident`.

    Raises
    ------
    ParameterError
        If ``count`` is not 1 to ``n``.
    """
    _check_count(count, n)
    return torch.randperm(n, generator=generator)[:count]


def _check_count(count: int, n: int) -> None:
    if not 1 <= count <= n:
        raise ParameterError(f"{count} images are to be selected of {n}; select 1 to {n}.")
