"""Groups of a class and an attribute: counted, balanced, assigned and read."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nuisance.data.images import Images
from nuisance.data.photos import Prepare, load_photos
from nuisance.errors import DataError, InputError, ParameterError
from nuisance.metrics.groups import GROUPS
from nuisance.seeding import generator as stream

CAP = 3  # the purpose of a stream of random numbers; Waterbirds' recipe has 0 to 2
SPLITS = ("train", "validation", "test")
"""The splits, each at the place that is its code in the files of Waterbirds and CelebA."""


def group_of(images: Images) -> Tensor:
    """The group of every image, int64 ``[n]``: ``2 * class + attribute``.

    Raises
    ------
    InputError
        If there is no attribute named ``attribute``, or classes or attributes are not 0 and 1.
    """
    if "attribute" not in images.attributes:
        raise InputError(
            "The images have no attribute named 'attribute'; "
            "add it with images.with_attributes(attribute=...)."
        )
    attribute = images.attributes["attribute"]
    for name, values in (("class", images.labels), ("attribute", attribute)):
        _require_binary(name, values)
    return 2 * images.labels.long() + attribute.long()


def counts(images: Images) -> Tensor:
    """How many images each group has, int64 ``[4]``; errors as `group_of`."""
    return torch.bincount(group_of(images), minlength=GROUPS)


def require_groups(images: Images, what: str) -> None:
    """Refuse images of which a class, an attribute or a group is missing.

    Parameters
    ----------
    what : how the message shall call the images.

    Raises
    ------
    DataError
        That names the first that is missing: a class, else an attribute, else every empty group.
    """
    table = counts(images).view(2, 2)
    for name, sums in (("class", table.sum(1)), ("attribute", table.sum(0))):
        for value in (0, 1):
            if not sums[value]:
                raise DataError(f"{what}: no image has {name} {value}; take more images or another set.")
    empty = [f"(class {y}, attribute {a})" for y, a in (table == 0).nonzero().tolist()]
    if empty:
        raise DataError(
            f"{what}: no image of group {' or '.join(empty)}; take more images, or a share of the "
            "common groups that leaves some for the others."
        )


def balanced_order(of: Tensor, generator: torch.Generator) -> Tensor:
    """As many draws as there are images, in which every group is equally likely.

    The sampler of Sagawa et al., "Distributionally robust neural networks for group shifts" (ICLR 2020):
    draws with replacement, an image of group ``g`` with weight ``n / n_g``. Inside a group every image
    is equally likely.

    Parameters
    ----------
    of : integers ``[n]``, what to balance: groups, or classes. Balanced are the values that occur;
        `require_groups` tells whether one is missing.
    generator : on the CPU, so that a seed means the same order on every device.

    Returns
    -------
    int64 ``[n]``, positions in ``of``, on its device.

    Raises
    ------
    InputError
        If ``of`` is empty or no row of integers.
    """
    _require_integers(of)
    _, group, size = of.cpu().unique(return_inverse=True, return_counts=True)
    weights = len(of) / size.double()[group]
    return torch.multinomial(weights, len(of), replacement=True, generator=generator).to(of.device)


def alternating_order(of: Tensor, generator: torch.Generator) -> Tensor:
    """As `balanced_order`, but the values of ``of`` take turns, so that no batch lacks one of them.

    The numbers of a batch's images of each value differ by one at most.
    """
    _require_integers(of)
    values = of.cpu().unique()
    members = [(of.cpu() == value).nonzero().flatten() for value in values]
    order = torch.empty(len(of), dtype=torch.int64)
    for turn, own in enumerate(members):
        places = order[turn :: len(members)]
        places.copy_(own[torch.randint(len(own), places.shape, generator=generator)])
    return order.to(of.device)


def assign_attributes(labels: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """The recipe of Waterbirds: in every class a share of the images gets the attribute equal to the class.

    Drawn without replacement, so that the counts are exact. What is rounded, half to even, is the count
    of attribute 1 in either class, as in the authors' generator: 933 landbirds halved are 467 on land
    and 466 on water.

    Parameters
    ----------
    labels : integers ``[n]``, 0 or 1.
    share : of each class, 0 to 1; Waterbirds takes .95 for training and .5 for validation and test.
    generator : on the CPU.

    Returns
    -------
    int64 ``[n]``, on the labels' device.

    Raises
    ------
    ParameterError
        If the share is not between 0 and 1.
    InputError
        If a label is not 0 or 1.
    """
    if not 0 <= share <= 1:
        raise ParameterError(f"share is {share} but must be between 0 and 1.")
    _require_binary("class", labels)
    attribute = torch.zeros(len(labels), dtype=torch.int64)
    for y, fraction in ((0, 1 - share), (1, share)):
        members = (labels.cpu() == y).nonzero().flatten()
        chosen = torch.randperm(len(members), generator=generator)[: round(fraction * len(members))]
        attribute[members[chosen]] = 1
    return attribute.to(labels.device)


class Listed(NamedTuple):
    """An image that a data set lists: its file, its split's code (see `SPLITS`), its class and attribute."""

    path: Path
    split: int
    label: int
    attribute: int


def read_listed(
    listed: Sequence[Listed], prepare: Prepare, *, cap: int | None, seed: int
) -> dict[str, Images]:
    """Read the images that a data set lists, by split, each with the attribute ``attribute``.

    Parameters
    ----------
    prepare : ``PIL.Image -> uint8 [3, h, w]``, the same size for every image.
    cap : at most so many images of a group and split, drawn by ``seed``; None for all.

    Raises
    ------
    ParameterError
        If ``cap`` is less than 1.
    DataError
        If a split has no image, or files are missing; they are counted before any is read.
    """
    if cap is not None and cap < 1:
        raise ParameterError(f"cap is {cap} but must be at least 1, or None for all images.")
    chosen = {name: _at_most(listed, code, cap, seed) for code, name in enumerate(SPLITS)}
    for name, rows in chosen.items():
        if not rows:
            raise DataError(f"No image is listed for the split {name}; fetch the data set's lists again.")
    files = [row.path for rows in chosen.values() for row in rows]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(files)} images to read are missing, first {missing[0]}; "
            "unpack the whole set."
        )
    splits = {}
    for name, rows in chosen.items():
        pixels, _ = load_photos([row.path for row in rows], prepare)
        labels, attribute = (torch.tensor(column) for column in zip(*[row[2:] for row in rows], strict=True))
        splits[name] = Images(pixels, labels, {"attribute": attribute})
    return splits


def _at_most(listed: Sequence[Listed], split: int, cap: int | None, seed: int) -> list[Listed]:
    """The images of a split, in their order, at most ``cap`` of every group."""
    chosen: list[int] = []
    for y in (0, 1):
        for a in (0, 1):
            members = [i for i, row in enumerate(listed) if row[1:] == (split, y, a)]
            if cap is not None and len(members) > cap:
                drawn = torch.randperm(len(members), generator=stream(seed, CAP, split, 2 * y + a))[:cap]
                members = [members[i] for i in drawn.tolist()]
            chosen += members
    return [listed[i] for i in sorted(chosen)]


def _require_integers(of: Tensor) -> None:
    if of.ndim != 1 or not len(of) or of.is_floating_point():
        raise InputError(f"Balancing needs integers [n], one an image, not {of.dtype} {list(of.shape)}.")


def _require_binary(name: str, values: Tensor) -> None:
    wrong = values[(values != 0) & (values != 1)]
    if len(wrong):
        raise InputError(
            f"The {name} of {len(wrong)} images is neither 0 nor 1, first {wrong[0].item()}; "
            "relabel them or leave them out."
        )
