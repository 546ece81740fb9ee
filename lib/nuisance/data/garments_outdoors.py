"""Garments outdoors: the stand-in for Waterbirds, made of data that come with the book.

The recipe of Waterbirds (Sagawa et al., "Distributionally robust neural networks for group shifts", ICLR 2020)
with T-shirts for landbirds, dresses for waterbirds, and generated landscapes for photos of places. What the study
needs is kept: a mask for every object, a place that nearly tells the class in training and says nothing
about it in testing, and the group proportions. The study starts from a network that ImageNet has taught; its
stand-in are the eight other garments, on places that tell nothing.
"""

import torch
from scipy import ndimage
from torch import Tensor

from nuisance.data.compositing import composite
from nuisance.data.embedded import load_embedded
from nuisance.data.groups import assign_attributes
from nuisance.data.images import Images
from nuisance.data.landscapes import land, water
from nuisance.errors import ParameterError
from nuisance.seeding import generator as stream

CLASSES = (0, 3)
"""T-shirts and dresses."""
SHARE = 0.95
"""Share of each training class that stands on its own place."""
FIRST_CLASS = 3682 / (3682 + 1113)
"""Share of landbirds in the training set of Waterbirds."""
GARMENT = 28
"""Side of a garment's picture in pixels."""
ALL = 1950
"""Training images, of all garments that there are nearly as many as the proportions allow."""
FEWEST = 100
"""Fewest training images: with fewer a group may be empty."""
_OTHERS = 3  # the purpose of a random stream; the splits have 0 to 2
DARKEST = 6
"""The darkest byte of cloth: below it is the noise around the silhouettes, and many coats are hardly brighter."""


def load_garments_outdoors(
    *,
    classes: tuple[int, int] = CLASSES,
    size: int = 32,
    seed: int,
    train_images: int = ALL,
    on_black: bool = False,
) -> dict[str, Images]:
    """Garments of two classes, tinted, on land or water, by split: train, validation, test.

    In training the classes have the proportions of Waterbirds, and .95 of either is on its own place (the first
    on land): 1,950 images make groups of 1,422, 75, 23 and 430. In validation and test every garment
    of both classes is shown twice, in one tint and position, first all on land and then all on water: 200
    and 300 in every group. Waterbirds tests each bird once, on a drawn place; in pairs the places differ by
    nothing but the place, so that the same number of garments compares them more sharply.
    Every background is used once.

    Parameters
    ----------
    classes : the labels of Fashion-MNIST that become class 0 and class 1; T-shirts and dresses unless told otherwise.
    size : side in pixels, 28 or more; garments keep their 28.
    train_images : size of the training set.
    on_black : put the same garments, tints and positions on black, for the experiment that bounds
        what any method could reach. The attribute remains that of the place that is not shown.

    Returns
    -------
    ``Images`` with pixels ``[n, 3, size, size]``, the attribute ``attribute`` (place: 0 land, 1 water)
    and the attribute ``original`` (the garment's index in the split of ``fashion_mnist20k``).

    Raises
    ------
    ParameterError
        If the classes are not two labels, the size is too small, or there are not as many garments.
    """
    if len(set(classes)) != 2 or not set(classes) <= set(range(10)):
        raise ParameterError(f"classes are {classes} but must be two different labels from 0 to 9.")
    if size < GARMENT:
        raise ParameterError(f"size is {size} but a garment needs at least {GARMENT} pixels.")
    splits = {}
    for code, (name, garments) in enumerate(load_embedded("fashion_mnist20k").items()):
        drawn = stream(seed, code, 0)
        members = [(garments.labels == label).nonzero().flatten() for label in classes]
        if name == "train":
            members = _drawn(members, train_images, drawn)
        original = torch.cat(members)
        labels = torch.arange(2).repeat_interleave(torch.tensor([len(part) for part in members]))
        foreground, mask = _dressed(garments.pixels[original, 0], size, drawn)
        if name == "train":
            place = assign_attributes(labels, share=SHARE, generator=drawn)
        else:
            place = torch.arange(2).repeat_interleave(len(labels))
            foreground, mask = foreground.repeat(2, 1, 1, 1), mask.repeat(2, 1, 1)
            labels, original = labels.repeat(2), original.repeat(2)
        # a stream of its own: garments are the same without landscapes
        landscapes = stream(seed, code, 1)
        background = torch.zeros_like(foreground) if on_black else _landscapes(place, size, landscapes)
        pixels = composite(foreground, mask, background)
        splits[name] = Images(pixels, labels, {"attribute": place, "original": original})
    return splits


def load_other_garments(*, classes: tuple[int, int] = CLASSES, size: int = 32, seed: int) -> Images:
    """The training garments of the eight other classes, tinted, on land or water by the toss of a coin.

    What a network may learn from before it meets the two classes: a stand-in for ImageNet.

    Parameters
    ----------
    classes, size : as `load_garments_outdoors`.

    Returns
    -------
    ``Images`` with labels from 0 to 7, in the order of Fashion-MNIST's, and the attribute ``attribute`` (place).
    """
    garments = load_embedded("fashion_mnist20k")["train"]
    others = [label for label in range(10) if label not in classes]
    new_label = torch.full((10,), -1)
    new_label[others] = torch.arange(len(others))
    labels = new_label[garments.labels]
    members = (labels >= 0).nonzero().flatten()
    drawn = stream(seed, _OTHERS)
    foreground, mask = _dressed(garments.pixels[members, 0], size, drawn)
    place = torch.randint(2, (len(members),), generator=drawn)
    background = _landscapes(place, size, drawn)
    return Images(composite(foreground, mask, background), labels[members], {"attribute": place})


def _landscapes(place: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A landscape for every place, uint8 ``[n, 3, size, size]``."""
    background = torch.empty(len(place), 3, size, size, dtype=torch.uint8)
    for value, family in enumerate((land, water)):
        there = place == value
        background[there] = family(int(there.sum()), size=size, generator=generator)
    return background


def cut_out(garments: Tensor) -> Tensor:
    """Where a garment is, from its picture on black.

    Inside the silhouette 1, whatever the cloth's print; along its rim a smooth step from nothing at black
    to 1 at an eighth of white, so that edges blend into the background.

    Parameters
    ----------
    garments : uint8 ``[n, h, w]``.

    Returns
    -------
    float32 ``[n, h, w]`` in [0, 1], without holes.
    """
    t = (garments.float() / 32).clamp(0, 1)
    soft = t * t * (3 - 2 * t)
    inside = torch.zeros_like(garments, dtype=torch.bool)
    for i, silhouette in enumerate((garments >= DARKEST).numpy()):
        filled = ndimage.binary_fill_holes(silhouette)  # else a dark print would be a window
        inside[i] = torch.from_numpy(ndimage.binary_erosion(filled))
    return soft.masked_fill(inside, 1)


def _drawn(members: list[Tensor], total: int, generator: torch.Generator) -> list[Tensor]:
    """As many of each class as the proportions of Waterbirds say, without replacement."""

    def wanted(total: int) -> list[int]:
        first = round(FIRST_CLASS * total)
        return [first, total - first]

    def enough(total: int) -> bool:
        return all(number <= len(part) for number, part in zip(wanted(total), members, strict=True))

    if total < FEWEST or not enough(total):
        largest = max(filter(enough, range(sum(map(len, members)) + 1)))
        raise ParameterError(f"There cannot be {total} training images; take {FEWEST} to {largest}.")
    return [
        part[torch.randperm(len(part), generator=generator)[:number]]
        for number, part in zip(wanted(total), members, strict=True)
    ]


def _dressed(garments: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Garments in drawn colours at drawn positions: uint8 ``[n, 3, size, size]``, and their masks."""
    n = len(garments)
    top, left = torch.randint(size - GARMENT + 1, (2, n, 1, 1), generator=generator)
    along = torch.arange(GARMENT)
    where = torch.arange(n).view(n, 1, 1), top + along.view(1, -1, 1), left + along.view(1, 1, -1)
    grey, mask = torch.zeros(2, n, size, size)
    grey[where] = garments.float() / 255
    mask[where] = cut_out(garments)
    # Any hue, from dull to saturated; what is black in the picture keeps a little of the colour.
    tints = _from_hsv(
        torch.rand(n, 3, generator=generator) * torch.tensor([1, 1, 0.6]) + torch.tensor([0, 0, 0.4])
    )
    cloth = tints.view(n, 3, 1, 1) * (0.15 + 0.85 * grey.unsqueeze(1))
    return (cloth * 255).round().byte(), mask


def _from_hsv(colors: Tensor) -> Tensor:
    """Hue, saturation and value in [0, 1] to red, green, blue: ``[n, 3]`` both."""
    hue, saturation, value = colors.unsqueeze(2).unbind(1)
    turn = (torch.tensor([5, 3, 1]) + 6 * hue) % 6
    return value * (1 - saturation * torch.minimum(turn, 4 - turn).clamp(0, 1))
