"""Small colour photos from ``data_root``: CIFAR-10, CIFAR-100 and the traffic signs of GTSRB.

CIFAR: Krizhevsky, "Learning multiple layers of features from tiny images" (2009). GTSRB: Stallkamp, Schlipsing,
Salmen, Igel, "Man vs. computer" (Neural Networks 2012). The chapter is ``sec-invariance-transfer``.
"""

import csv
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nuisance.data.images import Images
from nuisance.data.photos import fingerprint_files, load_photos
from nuisance.errors import DataError, ParameterError
from nuisance.seeding import generator

CIFAR_CLASSES = {"cifar10": 10, "cifar100": 100}
"""The sets of CIFAR and how many classes each has."""

GTSRB_CLASSES = 43
GTSRB_COUNTS = {"train": 26_640, "test": 12_630}
"""Images of GTSRB as torchvision fetches it: 888 tracks of 30 frames, and the official test set."""

HELD_OUT_SHARE = 0.2
"""The share of every class's tracks in GTSRB's validation split, and in the test split of its sample."""

_CIFAR_CUT, _GTSRB_CUT = range(2)  # purposes of streams of random numbers


def read_arrays(path: Path, *names: str, mend: str) -> list[np.ndarray]:
    """Arrays of an npz archive, by name; nothing in it is ever unpickled.

    Raises
    ------
    DataError
        If the file is missing or damaged, or lacks an array; the message ends on ``mend``.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (
        OSError,
        EOFError,
        KeyError,
        MemoryError,  # a damaged header can ask for any shape
        OverflowError,
        RuntimeError,  # a damaged flag can call a file encrypted
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"{path} is missing, damaged or lacks an array ({error}); {mend}.") from error


def to_images(
    images: np.ndarray, labels: np.ndarray, *, shape: tuple[int, ...], classes: int, where: str, mend: str
) -> Images:
    """Arrays as they are stored -> ``Images``.

    Parameters
    ----------
    images, labels : should be uint8 ``[n, *shape]`` and integers ``[n]`` from 0 to ``classes - 1``.
    shape : ``(h, w)`` for grey images, ``(h, w, 3)`` for colour ones.
    where, mend : how the message calls the place, and what it tells to do.

    Raises
    ------
    DataError
        If the arrays are not such, or there is no image.
    """
    right_images = images.dtype == np.uint8 and images.ndim and images.shape[1:] == shape
    right_labels = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not (right_images and right_labels and len(labels)):
        wanted = ", ".join(["n", *map(str, shape)])
        raise DataError(
            f"{where} holds images {images.dtype} {list(images.shape)} and labels {labels.dtype} "
            f"{list(labels.shape)} but must hold uint8 [{wanted}] and as many integers; {mend}."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{where} holds labels from {labels.min()} to {labels.max()} but must hold labels from 0 to "
            f"{classes - 1}; {mend}."
        )
    pixels = torch.from_numpy(images)
    pixels = pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels.unsqueeze(1)
    return Images(pixels.contiguous(), torch.from_numpy(labels.astype(np.int64)))


def digest_files(files: Iterable[Path], folder: Path, *, mend: str) -> dict[str, str]:
    """SHA-256 of every file, by its name below ``folder``.

    Raises
    ------
    DataError
        If a file cannot be read; the message ends on ``mend``.
    """
    try:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read; {mend}.") from error


def _deal(labels: Tensor, share: float, hands: int, *, generator: torch.Generator) -> Tensor:
    """Who gets what, int64 ``[n]``: 0 for training, or 1 to ``hands``.

    Of every class each hand gets ``round(share * n)``, at least one, drawn without replacement.
    """
    dealt = torch.zeros(len(labels), dtype=torch.int64)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        count = max(1, round(share * len(members)))
        for hand in range(hands):
            dealt[order[hand * count : (hand + 1) * count]] = hand + 1
    return dealt


# CIFAR


def load_cifar(data_root: Path, name: str = "cifar10") -> dict[str, Images]:
    """CIFAR-10 or CIFAR-100 by its official split (train, test), uint8 ``[n, 3, 32, 32]``.

    Of CIFAR-10 a sample, ``cifar10_sample/{train,test}.npz`` with ``images`` (uint8 ``[n, 32, 32, 3]``) and
    ``labels``; where there is none, and of CIFAR-100 always, the whole set as torchvision keeps it
    (``cifar-10-batches-py``, ``cifar-100-python``; of CIFAR-100 the 100 fine labels). Nothing is downloaded.

    Raises
    ------
    ParameterError
        If ``name`` is neither ``cifar10`` nor ``cifar100``.
    DataError
        If there is no such set, or it is damaged.
    """
    files, mend = _cifar_files(data_root, name)
    if files[0].suffix == ".npz":
        return {path.stem: _read_cifar_sample(path, mend) for path in files}
    try:
        parts = {
            split: _torchvision_cifar(name)(str(data_root), train=split == "train", download=False)
            for split in ("train", "test")
        }
    except (OSError, RuntimeError) as error:
        title = name.replace("cifar", "CIFAR-")
        raise DataError(f"{files[0].parent} is not a whole {title}; delete it and {mend}.") from error
    return {
        split: Images(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)
        )
        for split, part in parts.items()
    }


def load_cifar_splits(
    data_root: Path, name: str = "cifar10", *, seed: int, validation_share: float
) -> dict[str, Images]:
    """`load_cifar` by split (train, validation, test): validation images are cut from the training ones.

    GIT has none: its long tails are drawn from all training images, so ``validation_share=0`` is its setting.

    Parameters
    ----------
    seed : decides which images are for validation. Both parts keep the order of the files, since a long tail
        takes the first images of a class.
    validation_share : 0 to .5, of every class, rounded, but at least one image of each. With 0 the
        split validation is empty.

    Raises
    ------
    ParameterError
        If the share is not between 0 and .5, or the name is unknown.
    DataError
        As `load_cifar`.
    """
    if not 0 <= validation_share <= 0.5:
        raise ParameterError(f"validation_share is {validation_share} but must be between 0 and 0.5.")
    parts = load_cifar(data_root, name)
    train = parts["train"]
    hands = 1 if validation_share else 0
    held_out = _deal(train.labels, validation_share, hands, generator=generator(seed, _CIFAR_CUT)) == 1
    return {"train": train[~held_out], "validation": train[held_out], "test": parts["test"]}


def cifar_checksums(data_root: Path, name: str = "cifar10") -> dict[str, str]:
    """SHA-256 of every file that `load_cifar` reads, by its name below ``data_root``; errors as there."""
    files, mend = _cifar_files(data_root, name)
    return digest_files(files, data_root, mend=mend)


def _torchvision_cifar(name: str) -> Any:
    from torchvision import datasets  # slow to import, and a sample needs none of it

    return getattr(datasets, name.upper())


def _cifar_files(data_root: Path, name: str) -> tuple[list[Path], str]:
    """The files of the sample, else those of torchvision's copy, and what to do where they are damaged."""
    if name not in CIFAR_CLASSES:
        raise ParameterError(f"There is no CIFAR named {name!r}; there are {', '.join(CIFAR_CLASSES)}.")
    mend = f"fetch it with torchvision.datasets.{name.upper()}(data_root, download=True)"
    sample = data_root / "cifar10_sample"
    if name == "cifar10" and sample.is_dir():
        files = [sample / f"{split}.npz" for split in ("train", "test")]
        return files, f"bring it back, or delete {sample} and {mend}"
    kind = _torchvision_cifar(name)
    folder = data_root / kind.base_folder
    if not folder.is_dir():
        absent = (
            f"{folder.name} is not" if name != "cifar10" else f"Neither {sample.name} nor {folder.name} is"
        )
        raise DataError(f"{absent} in {data_root}; {mend}.")
    return [folder / file for file, _ in (*kind.train_list, *kind.test_list)], mend


def _read_cifar_sample(path: Path, mend: str) -> Images:
    images, labels = read_arrays(path, "images", "labels", mend=mend)
    return to_images(images, labels, shape=(32, 32, 3), classes=10, where=str(path), mend=mend)


# GTSRB

_FETCH_GTSRB = "fetch both splits with torchvision.datasets.GTSRB(data_root, split, download=True)"
_FRAME = re.compile(r"(\d{1,5})/(\d{1,5})_\d+\.ppm$")


def load_gtsrb(data_root: Path, *, seed: int) -> dict[str, Images]:
    """Traffic signs of 43 classes by split (train, validation, test), uint8 ``[n, 3, 32, 32]``.

    A track is one sign filmed on one drive past it. Its frames are near-duplicates, so no track is in two
    splits: one that is would be recognised again, which looks like generalisation. Either

    - a sample of the training images, ``gtsrb_sample/gtsrb_32px.npz`` with ``images`` (uint8 ``[n, 32, 32, 3]``),
      ``labels`` and ``names`` (``gtsrb/<class>/<track>_<frame>.ppm``): of the tracks of every class
      `HELD_OUT_SHARE` each, rounded, but at least one, are for validation and for testing; or
    - where there is none, the whole set as torchvision keeps it (``gtsrb/GTSRB``), resized as wholes, margins
      included, by Pillow's bilinear filter: `HELD_OUT_SHARE` of the training tracks are for validation, and the
      official test images are the test split.

    The split of GIT's authors (Zhou et al. 2022) is not released: this one is ours.

    Parameters
    ----------
    seed : decides the tracks of each split; images keep the order of the files.

    Returns
    -------
    Images with the attribute ``track``, a number that is the track's own; -1 for the official test images, whose
    tracks are not published.

    Raises
    ------
    DataError
        If neither is there, or what is there is damaged or lacks images; also if a class has fewer tracks
        than there are splits to fill (3 in the sample, 2 in the whole set): no released copy has such a class, and
        accuracy averaged over classes would have none to average there.
    """
    sample = _gtsrb_sample(data_root)
    if sample is not None:
        return _cut_by_track(_read_gtsrb_sample(sample), ("validation", "test"), sample, seed)
    files, test_files, test_labels = _gtsrb_files(data_root)
    folder = data_root / "gtsrb"
    labels, tracks = _parse([path.as_posix() for path in files], folder, _FETCH_GTSRB)
    pixels, _ = load_photos(files, _shrink)
    train = Images(pixels, labels, {"track": tracks})
    splits = _cut_by_track(train, ("validation",), folder, seed)
    pixels, _ = load_photos(test_files, _shrink)
    unknown = torch.full((len(pixels),), -1)
    return {**splits, "test": Images(pixels, test_labels, {"track": unknown})}


def gtsrb_checksums(data_root: Path) -> dict[str, str]:
    """SHA-256 of the sample, or one over all files of the whole set, whichever `load_gtsrb` reads; errors as there."""
    sample = _gtsrb_sample(data_root)
    if sample is not None:
        return digest_files([sample], data_root, mend=_FETCH_GTSRB)
    files, test_files, _ = _gtsrb_files(data_root)
    annotations = data_root / "gtsrb" / "GT-final_test.csv"
    return fingerprint_files("gtsrb", [*files, annotations, *test_files], data_root)


def _gtsrb_sample(data_root: Path) -> Path | None:
    sample = data_root / "gtsrb_sample"
    return sample / "gtsrb_32px.npz" if sample.is_dir() else None


def _read_gtsrb_sample(path: Path) -> Images:
    mend = f"bring it back, or delete {path.parent} and {_FETCH_GTSRB}"
    arrays, labels, names = read_arrays(path, "images", "labels", "names", mend=mend)
    shape = (32, 32, 3)
    images = to_images(arrays, labels, shape=shape, classes=GTSRB_CLASSES, where=str(path), mend=mend)
    if names.dtype.kind != "U" or names.shape != labels.shape:
        raise DataError(
            f"{path} holds {len(images)} images but names {names.dtype} {list(names.shape)}; {mend}."
        )
    classes, tracks = _parse(names.tolist(), path, mend)
    wrong = (classes != images.labels).nonzero().flatten()
    if len(wrong):
        raise DataError(
            f"{path} names {names[wrong[0]]} but labels it {images.labels[wrong[0]]}, as {len(wrong)} in all; {mend}."
        )
    return images.with_attributes(track=tracks)


def _gtsrb_files(data_root: Path) -> tuple[list[Path], list[Path], Tensor]:
    """The training images of torchvision's copy, sorted, and the test images with their labels."""
    folder = data_root / "gtsrb"
    if not folder.is_dir():
        raise DataError(f"Neither gtsrb_sample nor gtsrb is in {data_root}; {_FETCH_GTSRB}.")
    train = sorted((folder / "GTSRB" / "Training").glob("*/*.ppm"))
    annotations = folder / "GT-final_test.csv"
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
        rows = [(row["Filename"], int(row["ClassId"])) for row in csv.DictReader(lines, delimiter=";")]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{annotations} is missing or damaged; {_FETCH_GTSRB}.") from error
    wrong = [label for _, label in rows if not 0 <= label < GTSRB_CLASSES]
    if wrong:
        last = GTSRB_CLASSES - 1
        raise DataError(f"{annotations} has a label {wrong[0]} that is not 0 to {last}; {_FETCH_GTSRB}.")
    for split, found in (("train", len(train)), ("test", len(rows))):
        if found != GTSRB_COUNTS[split]:
            raise DataError(
                f"{folder} has {found} {split} images but GTSRB has {GTSRB_COUNTS[split]}; delete it and {_FETCH_GTSRB}."
            )
    images = folder / "GTSRB" / "Final_Test" / "Images"
    return train, [images / name for name, _ in rows], torch.tensor([label for _, label in rows])


def _parse(names: Sequence[str], where: Path, mend: str) -> tuple[Tensor, Tensor]:
    """Class and track of images by their names, int64 ``[n]`` each; tracks are numbered over all classes."""
    keys = []
    for name in names:
        match = _FRAME.search(name)
        if match is None or int(match[1]) >= GTSRB_CLASSES:
            last = GTSRB_CLASSES - 1
            raise DataError(
                f"{where} has {name}, not <class>/<track>_<frame>.ppm with a class from 0 to {last}; {mend}."
            )
        keys.append((int(match[1]), int(match[2])))
    both = torch.tensor(keys)
    return both[:, 0], both.unique(dim=0, return_inverse=True)[1]  # track 0 is another one in every class


def _cut_by_track(images: Images, held_out: Sequence[str], where: Path, seed: int) -> dict[str, Images]:
    """Training images and the splits ``held_out``, cut so that no track is in two of them."""
    tracks = images.attributes["track"]
    labels = torch.zeros(int(tracks.max()) + 1, dtype=torch.int64)
    labels[tracks] = images.labels  # of every track
    counts = torch.bincount(labels, minlength=GTSRB_CLASSES)
    needed = len(held_out) + 1
    if counts.min() < needed:
        raise DataError(
            f"{where} has {counts.min()} tracks of class {counts.argmin()} but must have {needed} of each of the "
            f"{GTSRB_CLASSES} classes, one for each of train, {', '.join(held_out)}; {_FETCH_GTSRB}."
        )
    dealt = _deal(labels, HELD_OUT_SHARE, len(held_out), generator=generator(seed, _GTSRB_CUT))[tracks]
    return {split: images[dealt == hand] for hand, split in enumerate(("train", *held_out))}


def _shrink(image: Image.Image) -> Tensor:
    resized = image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
