"""Long-tailed data sets: a few classes with many images, many with a few (`sec-invariance-transfer`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nuisance.data.images import Images
from nuisance.errors import DataError, InputError, ParameterError

NAMED = 5
"""Classes that `LongTail.note` names; the five-image variant repeats images of nearly every class."""


@dataclass(frozen=True)
class LongTail:
    """A long-tailed selection of images.

    Attributes
    ----------
    images : class after class from head to tail, with the attribute ``source``: int64 ``[n]``, each
        image's place among those it was drawn from, where its clean original is found again.
    class_sizes : int64 ``[classes]`` on the CPU, how many images a class has, by label (not by rank).
    distinct : int64 ``[classes]`` on the CPU, how many different ones these are, by label.
    order : the labels from head to tail.
    """

    images: Images
    class_sizes: Tensor
    distinct: Tensor
    order: list[int]

    @property
    def repeated(self) -> list[int]:
        """Labels, from head to tail, of the classes that had fewer images than asked and repeat them in turn."""
        return [label for label in self.order if self.distinct[label] < self.class_sizes[label]]

    @property
    def note(self) -> str:
        """What is repeated, in one sentence for the reader."""
        if not self.repeated:
            return "No class repeats an image."
        named = [
            f"class {label} ({self.distinct[label]:,} for {self.class_sizes[label]:,})"
            for label in self.repeated[:NAMED]
        ]
        if more := len(self.repeated) - len(named):
            named.append(f"{more} more")
        return f"Some classes have fewer different images than asked and repeat them in turn: {', '.join(named)}."


def zipf_sizes(classes: int, *, largest: int, exponent: float = 2.0, smallest: int = 5) -> list[int]:
    """Class sizes that fall as a power of the rank: max(floor(largest / i^exponent), smallest) for i = 1, 2, ...

    Zhou et al. (2022), K49-LT: 49 classes, exponent 2, at least 5 images. Their text's 7,864 images need
    ``largest=4828``; the released script (``make_kmnist_lt.py``) has 4,800, which gives 7,822.

    Returns
    -------
    ``classes`` sizes, largest first.

    Raises
    ------
    ParameterError
        If there is no class, the exponent is negative, or not 1 <= smallest <= largest.
    """
    _require_classes(classes, 1)
    if not 0 <= exponent < math.inf:
        raise ParameterError(f"exponent is {exponent} but must be at least 0; larger makes the tail thinner.")
    if not 1 <= smallest <= largest:
        raise ParameterError(
            f"smallest is {smallest} and largest {largest}, but 1 <= smallest <= largest must hold."
        )
    return [max(_floor(largest * rank**-exponent), smallest) for rank in range(1, classes + 1)]


def exponential_sizes(classes: int, *, largest: int, imbalance: float) -> list[int]:
    """Class sizes that fall by the same factor at each rank: floor(largest (1 / imbalance)^(c / (classes - 1))).

    Cao et al. (2019), CIFAR-LT: imbalance 100 leaves 12,406 images of CIFAR-10 and 10,847 of CIFAR-100.

    Parameters
    ----------
    imbalance : size of the largest class over that of the smallest.

    Returns
    -------
    ``classes`` sizes, largest first.

    Raises
    ------
    ParameterError
        If there are fewer than two classes, or the imbalance is below 1 or would leave the last class empty.
    """
    _require_classes(classes, 2)
    if not 1 <= imbalance <= largest:
        raise ParameterError(
            f"imbalance is {imbalance} but must be from 1 to largest, {largest}, so that the last class has an image."
        )
    return [_floor(largest * (1 / imbalance) ** (rank / (classes - 1))) for rank in range(classes)]


def draw_long_tail(
    images: Images,
    sizes: Sequence[int],
    *,
    generator: torch.Generator,
    shuffle: bool = True,
    most_distinct: int | None = None,
) -> LongTail:
    """Give the classes these sizes, in random order; each class gives its first images, in turn again if too few.

    The recipe of Zhou et al. (2022). Which class is head and which tail is decided here by ``generator``;
    the released code shuffles with an unseeded generator, so its 30 sets cannot be drawn again.
    An image that is repeated is meant to be transformed anew each time, which is why cycling is of use.

    Parameters
    ----------
    sizes : of all classes, head first.
    generator : of the CPU, so that a seed means the same set on every device.
    shuffle : False makes class 0 the head and the last class the tail, as in CIFAR-LT.
    most_distinct : at most so many different images of each class, drawn without replacement (the study's
        five-image variant, in which classes differ only in how many transformed copies they have); None for all.

    Returns
    -------
    The images on the device on which they were. An attribute ``source`` that they had is replaced.

    Raises
    ------
    ParameterError
        If a size is below 1 or above the one before it, or ``most_distinct`` is below 1.
    InputError
        If the images have more or fewer classes than there are sizes.
    DataError
        If a class between others has no image.
    """
    labels = images.labels.cpu()
    sizes = list(sizes)
    _require_sizes(sizes)
    _require_labels(labels, len(sizes))
    if most_distinct is not None and most_distinct < 1:
        raise ParameterError(f"most_distinct is {most_distinct} but must be at least 1, or None for all.")
    ranks = torch.randperm(len(sizes), generator=generator) if shuffle else torch.arange(len(sizes))
    order = ranks.tolist()
    class_sizes, distinct = torch.zeros(2, len(sizes), dtype=torch.int64)
    source = []
    for label, size in zip(order, sizes, strict=True):
        own = torch.where(labels == label)[0]
        if most_distinct is not None:
            own = own[torch.randperm(len(own), generator=generator)[:most_distinct]]
        source.append(own[torch.arange(size) % len(own)])
        class_sizes[label], distinct[label] = size, min(size, len(own))
    index = torch.cat(source).to(images.labels.device)
    return LongTail(images[index].with_attributes(source=index), class_sizes, distinct, order)


def _floor(value: float) -> int:
    """The floor, where a float that rounding left a hair below a whole number counts as that number."""
    nearest = round(value)  # 1024 * 32**-1.8 is 2, but in floats 1.9999999999999998
    return nearest if math.isclose(value, nearest, rel_tol=1e-12) else math.floor(value)


def _require_classes(classes: int, least: int) -> None:
    if classes < least:
        raise ParameterError(f"classes is {classes} but must be at least {least}.")


def _require_sizes(sizes: list[int]) -> None:
    for rank, size in enumerate(sizes):
        if size < 1:
            raise ParameterError(f"The size at rank {rank} is {size}; give each class at least 1 image.")
        if rank and size > sizes[rank - 1]:
            raise ParameterError(
                f"The size at rank {rank}, {size}, is above the one before it; give the sizes from head to tail."
            )


def _require_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that are not 0 to ``classes - 1``, each at least once."""
    present = labels.unique().tolist()
    if not present or present[0] < 0:
        raise InputError("The images have no class or a negative one; give images labelled from 0.")
    found = present[-1] + 1
    if found != classes:
        raise InputError(
            f"The images have {found} classes, 0 to {present[-1]}, but there are {classes} sizes; give one a class."
        )
    missing = sorted(set(range(classes)) - set(present))
    if missing:
        raise DataError(
            f"No image has class {' or '.join(map(str, missing))}; take more images, or relabel the classes."
        )
