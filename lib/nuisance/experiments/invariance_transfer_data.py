"""The images of chapter `sec-invariance-transfer`: long tails with a nuisance, by data set.

- ``fashion_mnist20k``: embedded garments, a stand-in for Kuzushiji-49, with the same recipe and nuisances;
- ``kuzushiji49``: the official files; a long tail by Zipf's law, each image with one fixed draw of the nuisance;
- ``cifar10``, ``cifar100``: an exponential tail of photographs, whose nuisances are those that they come with;
- ``gtsrb``: traffic signs, by a power law. The study's own split was not released.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nuisance.data import kuzushiji49, small_photos
from nuisance.data.embedded import checksums, load_embedded
from nuisance.data.images import Images
from nuisance.data.long_tail import LongTail, draw_long_tail, exponential_sizes, zipf_sizes
from nuisance.data.nuisance_transforms import TRANSFORMS
from nuisance.seeding import generator

EMBEDDED = "fashion_mnist20k"
NATURAL = "natural"
"""In the place of a nuisance: photographs as they are."""

NUISANCES = (*TRANSFORMS, NATURAL)

# One random stream for every purpose, so that adding one never shifts another.
_CLASSES, _TRAIN, _VALIDATION, _TEST = range(4)


@dataclass(frozen=True)
class Sets:
    """What one training and its judgement need.

    Attributes
    ----------
    tail : the long-tailed training images, each with one fixed draw of the nuisance.
    clean : all training images without the nuisance, bytes ``[n, c, h, w]``; ``source`` of ``tail`` points into them.
    validation, test : with the nuisance, class frequencies as they are.
    clean_validation : the validation images without the nuisance.
    """

    tail: LongTail
    clean: Images
    validation: Images
    test: Images
    clean_validation: Images

    @property
    def normalization(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of every channel of the training images, on the scale [0, 1]."""
        x = self.tail.images.pixels.float() / 255
        return x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).tolist()


@lru_cache(maxsize=2)
def load_clean(dataset: str, data_root: str, seed: int = 0) -> dict[str, Images]:
    """The data set by split, without a nuisance.

    Parameters
    ----------
    seed : of the split into training and validation images, where the data set has none; the same for all runs.

    Raises
    ------
    DataError
        If files are missing or damaged.
    """
    root = Path(data_root)
    if dataset == EMBEDDED:
        return load_embedded(EMBEDDED)
    if dataset == "kuzushiji49":
        return kuzushiji49.load_kuzushiji49(root / "kuzushiji49", seed=seed)
    if dataset == "gtsrb":
        return small_photos.load_gtsrb(root, seed=seed)
    return small_photos.load_cifar_splits(root, dataset, seed=seed, validation_share=0.1)


def fingerprint(dataset: str, data_root: str) -> dict[str, str]:
    """What identifies the data that a run reads: checksums by name."""
    root = Path(data_root)
    if dataset == EMBEDDED:
        name = f"{EMBEDDED}.npz"
        return {name: checksums()[name]}
    if dataset == "kuzushiji49":
        return kuzushiji49.kuzushiji49_checksums(root / "kuzushiji49")
    if dataset == "gtsrb":
        return small_photos.gtsrb_checksums(root)
    return small_photos.cifar_checksums(root, dataset)


def class_sizes(dataset: str, classes: int, settings: dict[str, Any]) -> list[int]:
    """Sizes of the classes from head to tail: exponential for CIFAR, by a power of the rank for the others."""
    if dataset.startswith("cifar"):
        return exponential_sizes(classes, largest=settings["largest"], imbalance=settings["imbalance"])
    return zipf_sizes(
        classes,
        largest=settings["largest"],
        exponent=settings["exponent"],
        smallest=settings["smallest"],
    )


@lru_cache(maxsize=2)  # the arms of one set follow each other
def _make_sets(dataset: str, nuisance: str, seed: int, data_root: str, sizes: tuple[int, ...]) -> Sets:
    clean = load_clean(dataset, data_root)
    # CIFAR's published tails have class 0 at the head; elsewhere a seed draws an order of the classes.
    shuffle = not dataset.startswith("cifar")
    tail = draw_long_tail(clean["train"], sizes, generator=generator(seed, _CLASSES), shuffle=shuffle)

    def disturbed(images: Images, purpose: int) -> Images:
        if nuisance == NATURAL:
            return images
        pixels = TRANSFORMS[nuisance](images.pixels, generator=generator(seed, purpose))
        return Images(pixels, images.labels, images.attributes)

    images = disturbed(tail.images, _TRAIN)
    return Sets(
        LongTail(images, tail.class_sizes, tail.distinct, tail.order),
        clean["train"],
        disturbed(clean["validation"], _VALIDATION),
        disturbed(clean["test"], _TEST),
        clean["validation"],
    )


def make_sets(dataset: str, nuisance: str, seed: int, *, data_root: str, settings: dict[str, Any]) -> Sets:
    """A long tail and what it is judged on.

    Parameters
    ----------
    nuisance : a key of `nuisance.data.nuisance_transforms.TRANSFORMS`, or ``"natural"`` for photographs as they are.
    seed : decides which class is head and which tail, and the nuisance of every image.
    settings : the chapter's ``largest``, ``smallest``, ``exponent`` and ``imbalance``.
    """
    classes = int(load_clean(dataset, data_root)["train"].labels.max()) + 1
    return _make_sets(dataset, nuisance, seed, data_root, tuple(class_sizes(dataset, classes, settings)))


def by_class(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Means of ``values`` ``[n]`` in every class, float64 ``[classes]``; NaN for a class without an image."""
    sums = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels.cpu(), values.double().cpu())
    return sums / torch.bincount(labels.cpu(), minlength=classes)
