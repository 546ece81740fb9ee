"""Kuzushiji-49: cursive Japanese characters of 49 classes, themselves imbalanced.

Clanuwat, Bober-Irizar, Kitamoto, Lamb, Yamamoto, Ha, "Deep learning for classical Japanese literature"
(arXiv 1812.01718). The chapter is ``sec-invariance-transfer``.
"""

from pathlib import Path

import torch

from nuisance.data.images import Images
from nuisance.data.small_photos import digest_files, read_arrays, to_images
from nuisance.errors import DataError
from nuisance.seeding import generator

CLASSES = 49
COUNTS = {"train": 232_365, "test": 38_547}
"""Images of each official part."""

_MEND = "fetch the four NumPy files of Kuzushiji-49 from codh.rois.ac.jp/kmnist"


def load_kuzushiji49(folder: Path, *, seed: int) -> dict[str, Images]:
    """Kuzushiji-49 by split (train, validation, test), uint8 ``[n, 1, 28, 28]``.

    20 % of the official training images, 46,473, are for validation. They are drawn at random over all classes
    together, as in GIT's released code (Zhou et al. 2022): a class's share in them varies by chance.

    Parameters
    ----------
    folder : has ``k49-{train,test}-{imgs,labels}.npz``, each with one array, ``arr_0``.
    seed : decides which images are for validation. Both parts keep the order of the files, since a long tail
        takes the first images of a class.

    Raises
    ------
    DataError
        If a file is missing or damaged, or does not hold all the images or their labels.
    """
    parts = {split: _read(folder, split) for split in COUNTS}
    train = parts["train"]
    held_out = torch.zeros(len(train), dtype=torch.bool)
    held_out[torch.randperm(len(train), generator=generator(seed))[: len(train) // 5]] = True
    return {"train": train[~held_out], "validation": train[held_out], "test": parts["test"]}


def kuzushiji49_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the four files by name, as `load_kuzushiji49` reads them; DataError if one is missing."""
    files = [path for split in COUNTS for path in _files(folder, split)]
    return digest_files(files, folder, mend=_MEND)


def _files(folder: Path, split: str) -> list[Path]:
    return [folder / f"k49-{split}-{kind}.npz" for kind in ("imgs", "labels")]


def _read(folder: Path, split: str) -> Images:
    images, labels = (read_arrays(path, "arr_0", mend=_MEND)[0] for path in _files(folder, split))
    where = str(folder / f"k49-{split}-*.npz")
    read = to_images(images, labels, shape=(28, 28), classes=CLASSES, where=where, mend=_MEND)
    if len(read) != COUNTS[split]:
        raise DataError(f"{where} hold {len(read)} images but must hold {COUNTS[split]}; {_MEND}.")
    return read
