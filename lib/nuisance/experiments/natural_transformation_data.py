"""The images of chapter `sec-natural-transformation`.

- ``fashion_mnist20k``: embedded garments, 28 px, grey;
- ``celeba``: faces in the official files; blond hair is the class.

A generator sees all training images, without labels; a classifier the first few, with labels; the judge, which
must not be related to the classifiers, the rest.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from nuisance.data import celeba
from nuisance.data.distortions import DISTORTIONS, distort
from nuisance.data.embedded import checksums, load_embedded
from nuisance.data.images import Images
from nuisance.data.photos import fingerprint_files
from nuisance.errors import ParameterError
from nuisance.seeding import generator

EMBEDDED = "fashion_mnist20k"

# One random stream for every purpose, so that adding one never shifts another; the methods' are below 10, and the
# experiment's from there.
_ORDER, _DISTORTION = range(30, 32)

_READ = ("images", "test_images", "side", "cap")
"""The settings that decide what is read."""


@dataclass(frozen=True)
class Sets:
    """What the chapter's networks learn from and are judged on.

    Attributes
    ----------
    unlabelled : all training images, for the generator; nothing reads their labels.
    train : those of the classifiers.
    others : the rest, with which the judge is trained.
    validation, test : as the data set has them; of the test images the first.
    """

    unlabelled: Images
    train: Images
    others: Images
    validation: Images
    test: Images

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.unlabelled.labels.max()) + 1

    @property
    def channels(self) -> int:
        """Of an image."""
        return self.unlabelled.pixels.shape[1]

    @property
    def side(self) -> int:
        """Of an image, in pixels."""
        return self.unlabelled.pixels.shape[2]


def make_sets(dataset: str, *, data_root: str, settings: dict[str, Any]) -> Sets:
    """Read a data set.

    Parameters
    ----------
    settings : the chapter's ``images`` of a classifier's training, ``test_images``, and for photographs ``side``
        and ``cap``, of images in a group and split (0 for all).

    Raises
    ------
    DataError
        If files are missing or damaged.
    ParameterError
        If no image would be left for the judge.
    """
    return _make_sets(dataset, data_root, *(settings[name] for name in _READ))


@lru_cache(maxsize=1)
def _make_sets(dataset: str, data_root: str, images: int, test_images: int, side: int, cap: int) -> Sets:
    if dataset == EMBEDDED:
        splits = dict(load_embedded(EMBEDDED))
        splits["validation"] = _shuffled(splits["validation"])  # whose first images are of few classes
    else:
        read = celeba.load_celeba(
            Path(data_root) / "celeba", partial(celeba.prepare_face, side=side), cap=cap or None
        )
        # read group by group, where the first images would all be of one class
        splits = {name: _shuffled(split) for name, split in read.items()}
    train = splits["train"]
    if images >= len(train):
        raise ParameterError(
            f"images is {images} but there are {len(train)} training images, and the judge needs some; take fewer."
        )
    return Sets(train, train[:images], train[images:], splits["validation"], splits["test"][:test_images])


def _shuffled(images: Images) -> Images:
    return images[torch.randperm(len(images), generator=generator(0, _ORDER))]


def distorted(images: Images, name: str, severity: int) -> Images:
    """Images under a distortion, each changed in the same direction at every severity."""
    random = generator(0, _DISTORTION, list(DISTORTIONS).index(name))
    return Images(distort(images.pixels, name, severity, generator=random), images.labels)


def fingerprint(dataset: str, data_root: str, generator_file: str) -> dict[str, str]:
    """What identifies the data that a run reads: checksums by name."""
    found: dict[str, str] = {}
    if generator_file:
        path = Path(generator_file)
        found |= fingerprint_files(path.name, [path], path.parent)
    if dataset == EMBEDDED:
        name = f"{EMBEDDED}.npz"
        return found | {name: checksums()[name]}
    folder = Path(data_root) / "celeba"
    # The lists alone: reading 200,000 photos for a checksum would take longer than a reduced run.
    return found | fingerprint_files(folder.name, celeba.lists_of(folder), folder)
